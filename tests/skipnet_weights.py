"""A small network, and weights loaded into it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from segpipe.errors import InputError
from stages.config.root import ModelConfig
from stages.models import build_network
from stages.models.pretrained import MatchReport, load_pretrained

SKIPNET = ModelConfig(options={"width": 4})


def make(seed: int = 0, channels: int = 3, outputs: int = 4, config: ModelConfig = SKIPNET) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(config, channels, outputs)


def load(network: nn.Module, path: Path, channels: int = 3, config: ModelConfig = SKIPNET) -> MatchReport:
    found = load_pretrained(network, config.model_copy(update={"weights": path.name}), path.parent, channels)
    assert found is not None
    return found


def refused(path: Path, network: nn.Module) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load(network, path)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    return str(caught.value)


def same(ours: nn.Module, theirs: nn.Module, parts: tuple[str, ...]) -> bool:
    mine, yours = ours.state_dict(), theirs.state_dict()
    return all(torch.equal(mine[key], yours[key]) for key in mine if key.startswith(parts))
