"""Networks of users whose state is unusual: kept in a checkpoint, or refused before the first step."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segpipe.contract.schema import Contract
from segpipe.errors import ConfigError
from stages.config.root import ModelConfig
from stages.models import build_network, checkpoint
from stages.models.checkpoint import Trained

PALETTE = ((0, 0, 0), (255, 0, 0))
CONTRACT = Contract(classes=("ground", "thing"), network_size=(16, 24))


class Plain(nn.Module):
    """One layer, at the input's size."""

    stride = size_multiple = 1

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, classes, 3, padding=1)

    def forward(self, frames: Tensor) -> Tensor:
        scores: Tensor = self.head(frames)
        return scores


class Shared(Plain):
    """One layer under two names, and buffers that overlap."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.again = self.head
        self.register_buffer("all", torch.arange(6.0))
        self.register_buffer("part", self.get_buffer("all")[1:3])


class Extra(Plain):
    """State that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        """Nothing to restore."""


class Spread(Plain):
    """A buffer of one number, seen as many."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.register_buffer("scale", torch.ones(1).expand(4))


class Sparse(Plain):
    """A sparse buffer."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__(channels, classes)
        self.register_buffer("table", torch.eye(3).to_sparse())


def test_shared_layers_and_overlapping_buffers_come_back_as_they_were() -> None:
    config = ModelConfig(name="tests.test_models_state:Shared", options={})
    torch.manual_seed(1)
    network = build_network(config, 3, 2)
    network.get_buffer("all").mul_(2)
    data = checkpoint.to_bytes(Trained(network, CONTRACT, PALETTE), config)
    restored = checkpoint.from_bytes(data).network

    assert restored.again is restored.head
    assert all(torch.equal(value, restored.state_dict()[key]) for key, value in network.state_dict().items())
    assert data == checkpoint.to_bytes(Trained(restored, CONTRACT, PALETTE), config)
    checkpoint.refuse_unkept_state(network, config.name)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Extra(3, 2), "'_extra_state', a dict,"),
        (Spread(3, 2), r"'scale', a tensor whose elements share memory \(expand\),"),
        (Sparse(3, 2), r"'table', a torch.float32 tensor \(torch.sparse_coo\),"),
    ],
    ids=["extra", "spread", "sparse"],
)
def test_state_that_no_checkpoint_keeps_is_refused_in_one_line(network: nn.Module, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[model\] mine:net: its state_dict holds {said}") as raised:
        checkpoint.refuse_unkept_state(network, "mine:net")

    assert "\n" not in str(raised.value)
