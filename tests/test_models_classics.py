"""The networks written here, held to what they claim: pooling indices, published sizes, deep supervision."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from stages.config.root import ModelConfig
from stages.models import build_network
from stages.models.layers import ExportableAdaptivePool
from stages.models.measure import measure
from stages.models.segnet import IndexedPool, IndexedUnpool

POOLING_TOLERANCE = 1e-6
"""Absolute, of means of numbers near 1: matrix products add them in another order."""


@given(
    values=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=48, max_size=48),
    filling=st.lists(st.floats(-2, 2, width=32), min_size=12, max_size=12),
)
@settings(max_examples=60, deadline=None)
def test_pooling_indices_equal_max_unpool_bit_by_bit_also_on_ties(values: list[float], filling: list[float]) -> None:
    features, small = torch.tensor(values).view(1, 2, 4, 6), torch.tensor(filling).view(1, 2, 2, 3)
    expected, indices = F.max_pool2d(features, 2, return_indices=True)
    pooled, keep = IndexedPool()(features)

    assert torch.equal(pooled, expected)
    assert torch.equal(IndexedUnpool()(small, keep), F.max_unpool2d(small, indices, [2, 2]))


@pytest.mark.parametrize("bins", [2, 3, 6])
@pytest.mark.parametrize("size", [(12, 18), (7, 5), (16, 33)])
def test_exportable_pooling_equals_adaptive_pooling(bins: int, size: tuple[int, int]) -> None:
    features = torch.rand(2, 3, *size)

    difference = ExportableAdaptivePool(bins)(features) - F.adaptive_avg_pool2d(features, bins)
    assert float(difference.abs().max()) <= POOLING_TOLERANCE


def test_ddrnet_has_the_published_size_and_arithmetic() -> None:
    network = build_network(ModelConfig(name="ddrnet23_slim"), 3, 19)
    in_use = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary"))
    macs_1024x2048 = measure(ModelConfig(name="ddrnet23_slim")).gflops / 2 * 4

    assert in_use == pytest.approx(5.7e6, rel=0.01)  # Hong et al. 2021, table 4
    assert macs_1024x2048 == pytest.approx(36.3, rel=0.01)


def test_segnet_encoder_is_vgg16_with_batch_norm() -> None:
    import torchvision

    own = build_network(ModelConfig(name="segnet"), 3, 2).get_submodule("encoder").state_dict()
    theirs = torchvision.models.vgg16_bn(weights=None).features.state_dict()

    assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("ddrnet23_slim", {}, [8, 8]),
        ("bisenetv2", {}, [8, 4, 8, 16, 32]),
        ("torchvision/deeplabv3_mobilenet_v3_large", {"auxiliary": True}, [16, 8]),
    ],
)
def test_deep_supervision_speaks_in_training_only(name: str, options: dict[str, object], strides: list[int]) -> None:
    network = build_network(ModelConfig(name=name, options=options), 3, 5)
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        outputs = network.train()(image)
        scores = network.eval()(image)

    assert [64 // output.shape[-1] for output in outputs] == strides
    assert all(output.shape[1] == 5 for output in outputs)
    assert isinstance(scores, Tensor)
