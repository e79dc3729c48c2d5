"""Static Mask R-CNN: what torchvision answers with the same weights, in one graph that says when it does not."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import nms

from segpipe.errors import ConfigError
from stages.models.mask_rcnn.network import StaticMaskRCNN
from stages.models.mask_rcnn.pooling import Places, Pyramid, canvas_of, pooled
from stages.models.mask_rcnn.suppression import suppress
from tests.tiny_mask_rcnn import SIZE, move, theirs

SAME, SAME_PX = 1e-5, 1e-3  # scores, and boxes in pixels
SURE_IOU = 1e-4  # from a threshold: a thousand times the rounding
SAME_MASKS = 1e-4  # chances of pixels: boxes that are 4e-5 pixels apart, in maps of random weights


@cache
def images() -> Tensor:
    """Of which rounding decides nothing, see below."""
    return normal(np.random.default_rng(4), 2, 3, *SIZE)


def normal(rng: np.random.Generator, *shape: int) -> Tensor:
    """torch's own numbers are others on another processor."""
    return torch.from_numpy(rng.standard_normal(shape, np.float32))


def uniform(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.random(shape, np.float32))


# suppression


def chain(length: int) -> Tensor:
    """Boxes of which each overlaps its neighbours alone by more than a half."""
    left = torch.arange(length) * 3.0
    return torch.stack([left, torch.zeros(length), left + 10, torch.full((length,), 10.0)], 1)


def test_a_chain_of_twelve_overlapping_boxes_is_suppressed_as_torchvision_does() -> None:
    boxes = chain(12)
    kept, settled = suppress(boxes[None], torch.ones(1, 12, dtype=torch.bool), 0.5, 12)

    wanted = nms(boxes, torch.arange(12.0).flip(0), 0.5)
    assert kept[0].nonzero()[:, 0].tolist() == wanted.tolist() == [0, 2, 4, 6, 8, 10]
    assert settled.tolist() == [True]


def test_too_few_steps_for_a_chain_are_said() -> None:
    kept, settled = suppress(chain(12)[None], torch.ones(1, 12, dtype=torch.bool), 0.5, 6)

    assert settled.tolist() == [False]
    assert kept.sum() != 6


@pytest.mark.parametrize("seed", range(4))
def test_suppression_of_a_crowd_is_torchvisions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = uniform(rng, 128, 2) * 60
    boxes = torch.cat([corner, corner + 5 + uniform(rng, 128, 2) * 30], 1)
    scores = torch.arange(128.0).flip(0)
    groups = torch.from_numpy(rng.integers(0, 2, 128))
    kept, settled = suppress(boxes[None], torch.ones(1, 128, dtype=torch.bool), 0.5, 24, groups[None])

    wanted = torchvision.ops.batched_nms(boxes, scores, groups, 0.5)
    assert (torchvision.ops.box_iou(boxes, boxes) - 0.5).abs().min() > SURE_IOU
    assert kept[0].nonzero()[:, 0].tolist() == wanted.tolist()
    assert settled.all()


def test_a_box_that_is_none_suppresses_nobody_and_is_not_kept() -> None:
    kept, _ = suppress(chain(2)[None], torch.tensor([[False, True]]), 0.5, 4)

    assert kept.tolist() == [[False, True]]


# pooling


def test_two_matrix_products_are_roi_align_on_every_level() -> None:
    rng = np.random.default_rng(0)
    sizes = [(16, 24), (8, 12), (4, 6), (2, 3)]
    levels = [normal(rng, 2, 4, *size) for size in sizes]
    corner = uniform(rng, 2, 40, 2) * torch.tensor([90.0, 60.0])
    boxes = torch.cat([corner, corner + uniform(rng, 2, 40, 2) ** 3 * 300], 2)
    pool = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=56)
    wanted = pool(dict(zip("0123", levels, strict=True)), [*boxes], [SIZE, SIZE])

    found = pooled(canvas_of(levels), *Places(pool)(boxes, Pyramid.of(sizes, SIZE)))
    assert found.shape == wanted.shape == (80, 4, 7, 7)
    assert (found - wanted).abs().max() < SAME


def test_boxes_pooled_in_parts_are_pooled_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    canvas, weights = normal(rng, 1, 2, 8, 8), uniform(rng, 1, 5, 3, 8)
    whole = pooled(canvas, weights, weights)
    monkeypatch.setattr("stages.models.mask_rcnn.pooling._MOST_VALUES", 3 * 2 * 8 * 2)

    assert torch.allclose(pooled(canvas, weights, weights), whole, atol=1e-6)


# the network

Found = tuple[Tensor, ...]


def hold(found: Found, number: int, wanted: dict[str, Tensor]) -> None:
    """One image's rows to torchvision's, each to the one of its label that is nearest: where two are as likely,
    rounding says which is first."""
    boxes, scores, labels, masks = (part[number] for part in found[:4])
    count = len(wanted["scores"])
    assert int((scores > 0).sum()) == count
    assert labels[count:].tolist() == [-1] * (len(labels) - count)
    assert (scores[:-1] >= scores[1:]).all()
    away = (boxes[:count] - wanted["boxes"][:, None]).abs().amax(2)
    other = labels[:count] + 1 != wanted["labels"][:, None]
    rows = away.masked_fill(other, torch.inf).argmin(1)
    assert sorted(rows.tolist()) == [*range(count)]
    assert (labels[rows] + 1).tolist() == wanted["labels"].tolist()
    assert (scores[rows] - wanted["scores"]).abs().max() < SAME
    assert (boxes[rows] - wanted["boxes"]).abs().max() < SAME_PX
    assert (masks[rows].sigmoid() - wanted["masks"][:, 0]).abs().max() < SAME_MASKS


@torch.inference_mode()
def suppressed(seed: int, **settings: Any) -> int:
    """How many boxes of the first image torchvision suppresses in the end."""
    alone = StaticMaskRCNN(theirs(seed, **settings | {"box_detections_per_img": 999})).published(images()[:1])
    crowd = StaticMaskRCNN(theirs(seed, **settings | {"box_detections_per_img": 999, "box_nms_thresh": 1.0}))
    return len(crowd.published(images()[:1])[0]["scores"]) - len(alone[0]["scores"])


FULL: dict[str, Any] = {}
FEWER: dict[str, Any] = {"box_score_thresh": 0.3, "box_detections_per_img": 100}
SOME: dict[str, Any] = {"box_detections_per_img": 160, "box_score_thresh": 0.21}
"""Below 0.2 are ties: a box of which the head knows nothing is as likely of each class."""


@pytest.mark.parametrize(("seed", "settings"), [(0, FULL), (1, FEWER), (0, SOME)])
@torch.inference_mode()
def test_what_is_found_in_these_images_is_decided_by_far_more_than_rounding(
    seed: int, settings: dict[str, Any]
) -> None:
    """Without that the next tests would be others on each processor."""
    network = StaticMaskRCNN(theirs(seed, **settings))
    wanted = network.published(images())
    move(network, seed)

    for one, moved in zip(wanted, network.published(images()), strict=True):
        away = (moved["boxes"] - one["boxes"][:, None]).abs().amax(2)
        near = (away < 0.5) & (moved["labels"] == one["labels"][:, None])
        assert near.shape[0] == near.shape[1]
        assert near.any(1).all()


@pytest.mark.parametrize(("seed", "settings"), [(0, FULL), (1, FEWER)])
def test_the_network_answers_what_torchvision_answers_with_its_weights(seed: int, settings: dict[str, Any]) -> None:
    """As many rows as there are, and fewer."""
    network = StaticMaskRCNN(theirs(seed, **settings)).eval()
    with torch.inference_mode():
        wanted, found = network.published(images()), network(images())

    assert suppressed(seed, **settings) >= 5
    assert found[-1].flatten().tolist() == [1, 1]
    for number, one in enumerate(wanted):
        assert len(one["scores"]) >= 20
        hold(found, number, one)


def test_fewer_candidates_than_there_are_are_said_unless_the_rows_are_full() -> None:
    """Of 96 x 4 candidates."""
    with torch.inference_mode():
        full = StaticMaskRCNN(theirs(0), candidates=100).eval()(images())[-1]
        short = StaticMaskRCNN(theirs(0, box_detections_per_img=99), candidates=100).eval()(images())[-1]

    assert (full.flatten().tolist(), short.flatten().tolist()) == ([1, 1], [0, 0])


def test_some_categories_of_a_network_that_knows_more_are_told_under_their_own_numbers() -> None:
    whole = theirs(0, **SOME)
    network = StaticMaskRCNN(whole, categories=(4, 2)).eval()
    with torch.inference_mode():
        every = StaticMaskRCNN(whole).published(images())
        found, alone = network(images()), network.published(images())

    for number, one in enumerate(every):
        of_them = (one["labels"] == 4) | (one["labels"] == 2)
        assert 0 < int(of_them.sum()) < len(one["labels"])
        told = {name: values[of_them] for name, values in one.items()}
        hold(found, number, told | {"labels": torch.where(told["labels"] == 4, 1, 2)})
        hold(found, number, alone[number])


def test_categories_that_the_head_does_not_have_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"categories: \[1, 9\]"):
        StaticMaskRCNN(theirs(), categories=(1, 9))


def test_the_names_of_torchvisions_published_weights_are_todays() -> None:
    network = StaticMaskRCNN(theirs())
    names = {
        "backbone.fpn.inner_blocks.0.weight": "backbone.fpn.inner_blocks.0.0.weight",
        "rpn.head.conv.bias": "rpn.head.conv.0.0.bias",
        "roi_heads.mask_head.mask_fcn1.weight": "roi_heads.mask_head.0.0.weight",
    }

    assert {old: network.modern(old) for old in names} == names
    assert names.keys().isdisjoint(network.state_dict())
    assert {*names.values()} <= network.state_dict().keys()
    assert [network.modern(name) for name in network.state_dict()] == [*network.state_dict()]


def test_a_network_without_a_pyramid_and_with_a_threshold_of_its_own_is_answered_too() -> None:
    """What people put together: one map, anchors of several sizes on it, and unlikely proposals left out."""
    backbone: Any = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU())
    backbone.out_channels = 8
    pools = [torchvision.ops.MultiScaleRoIAlign(["0"], side, 2) for side in (7, 14)]
    whole = theirs(
        backbone=backbone,
        rpn_anchor_generator=AnchorGenerator(((16, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=pools[0],
        mask_roi_pool=pools[1],
        rpn_score_thresh=0.5,
    )
    network = StaticMaskRCNN(whole).eval()
    with torch.inference_mode():
        wanted, found = network.published(images()), network(images())

    for number, one in enumerate(wanted):
        assert len(one["scores"]) > 0
        hold(found, number, one)


def test_pooling_with_as_many_samples_as_a_box_is_large_is_refused() -> None:
    with pytest.raises(ConfigError, match="sampling_ratio -1"):
        Places(torchvision.ops.MultiScaleRoIAlign(["0"], 7, -1))
