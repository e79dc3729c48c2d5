"""The contract of every network, on one representative of each family; `make matrix` runs it on all."""

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from segpipe.errors import ExportError
from stages.config.root import ModelConfig
from tests import network_checks as checks
from tests.network_checks import Subject

REPRESENTATIVES = {
    "segnet": ModelConfig(name="segnet", options={"width": 8}),
    "ddrnet23_slim": ModelConfig(name="ddrnet23_slim"),
    "torchvision": ModelConfig(name="torchvision/lraspp_mobilenet_v3_large"),
    "smp": ModelConfig(name="smp/unet/resnet18", options={"decoder_channels": [64, 32, 16, 16, 8]}),
}
every_family = pytest.mark.parametrize("family", REPRESENTATIVES)


def make(family: str) -> Subject:
    return Subject.make(REPRESENTATIVES[family], checks.SMALL_SIZES)


@cache
def exported(family: str) -> tuple[Subject, dict[str, bytes]]:
    """One export a session."""
    subject = make(family)
    return subject, checks.export(subject, open_sizes=False)


@every_family
def test_scores_come_at_the_declared_stride(family: str) -> None:
    checks.check_stride(make(family))


@every_family
def test_loss_falls_on_one_batch(family: str) -> None:
    checks.check_learning(make(family))


@every_family
def test_weights_survive_safetensors_bit_by_bit(family: str) -> None:
    checks.check_round_trip(make(family))


@every_family
def test_exported_graphs_equal_pytorch(family: str) -> None:
    checks.check_export(*exported(family), open_sizes=False)


@every_family
def test_rtx_engine_is_built_in_half_precision(family: str) -> None:
    assert checks.check_fp16_engine(*exported(family), open_sizes=False)["fp16_share"] >= 0.9


class Wrong(nn.Module):
    """Breaks the contract in the way it is told."""

    size_multiple = 32

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.stride = fault, 8 if fault == "stride" else 4
        self.stem = nn.Conv2d(3, 4, 4, 4)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor]:
        scores: Tensor = self.stem(image)
        if self.fault == "nan":
            return scores * torch.nan
        if self.fault == "frozen":
            return scores.detach() + 0 * scores
        return (scores,) if self.fault == "tuple" else scores


@pytest.mark.parametrize(("fault", "said"), [("stride", "32, 32"), ("nan", "not finite"), ("tuple", "gave tuple")])
def test_a_network_that_breaks_its_word_is_caught(fault: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        checks.check_stride(Subject(ModelConfig(), Wrong(fault).eval()))


def test_a_network_that_does_not_learn_is_caught() -> None:
    with pytest.raises(AssertionError, match="loss went"):
        checks.check_learning(Subject(ModelConfig(), Wrong("frozen").eval()))


def test_a_graph_of_another_network_is_caught() -> None:
    _, files = exported("segnet")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in (other := make("segnet")).network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))

    with pytest.raises(ExportError, match="the graph is not the network"):
        checks.check_export(other, files, open_sizes=False)
