"""The gate on Mask R-CNN: what rounding does passes, a head, a threshold or a box that is another does not."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from segpipe.contract.schema import InstanceContract
from segpipe.instances import Instances
from stages.measuring.things import ThingsComparison
from stages.models.mask_rcnn.network import StaticMaskRCNN
from stages.tasks import offline_task_of
from stages.validate.judging.things import FP32, HALF, ThingLimits, thing_checks
from tests.tiny_mask_rcnn import CONTRACT, frames, network

Change = Callable[[StaticMaskRCNN], None]


def changed(change: Change) -> StaticMaskRCNN:
    """The network with a defect."""
    made = network(3, 5, 4, CONTRACT.top)
    with torch.no_grad():
        change(made)
    return made


def answers(made: torch.nn.Module, contract: InstanceContract = CONTRACT) -> list[Instances]:
    return [offline_task_of(contract).segment(made, frame) for frame in frames()]


@cache
def reference() -> list[Instances]:
    return answers(changed(lambda network: None))


def failed(found: list[Instances], limits: ThingLimits = HALF) -> set[str]:
    comparison = ThingsComparison()
    for ours, theirs_ in zip(reference(), found, strict=True):
        comparison.add(ours, theirs_, "frame")
    return {check.name for check in thing_checks(comparison, limits) if check.status == "failed"}


def scaled(path: str) -> Change:
    def change(network: StaticMaskRCNN) -> None:
        for weight in network.get_submodule(path).parameters():
            weight.mul_(1.01)

    return change


def looser(network: StaticMaskRCNN) -> None:
    network.decode.rows.threshold = 0.6


def shifted(network: StaticMaskRCNN) -> None:
    rows = network.decode.rows.forward

    def forward(*given: Any) -> tuple[Tensor, ...]:
        boxes, *others = rows(*given)
        return (boxes + 1, *others)

    monkeyed: Any = network.decode.rows
    monkeyed.forward = forward


def unsettled(network: StaticMaskRCNN) -> None:
    network.decode.proposals.steps = 1


def test_the_network_finds_sure_things_and_is_equal_to_itself() -> None:
    assert sum(len(found.above(0.375)) for found in reference()) >= 20
    assert all(found.settled for found in reference())
    assert failed(answers(changed(lambda network: None)), FP32) == set()


@pytest.mark.parametrize(
    ("defect", "limit"),
    [
        (looser, "extra_things"),
        (shifted, "thing_boxes_px"),
        (unsettled, "map_relative_l2"),
        (scaled("rpn.head.cls_logits"), "map_relative_l2"),
        (scaled("rpn.head.bbox_pred"), "map_relative_l2"),
        (scaled("roi_heads.box_predictor.cls_score"), "map_relative_l2"),
        (scaled("roi_heads.box_predictor.bbox_pred"), "map_relative_l2"),
        (scaled("roi_heads.mask_predictor.mask_fcn_logits"), "map_relative_l2"),
    ],
    ids=[
        "an NMS threshold of 0.6", "boxes shifted by a pixel", "suppression that ends early", "anchors' scores x 1.01",
        "anchors' moves x 1.01", "classes x 1.01", "boxes' moves x 1.01", "masks x 1.01",
    ],
)  # fmt: skip
def test_a_planted_defect_fails_its_limit(defect: Change, limit: str) -> None:
    assert limit in failed(answers(changed(defect)))


@pytest.mark.parametrize("wrong", [{"channel_order": "bgr"}, {"mean": (0.0,) * 3}])
def test_what_is_done_wrong_to_the_frame_fails(wrong: dict[str, Any]) -> None:
    assert "map_relative_l2" in failed(answers(changed(lambda network: None), CONTRACT.model_copy(update=wrong)))


def test_a_network_that_ended_early_says_so_of_its_answer() -> None:
    (first, *_) = answers(changed(unsettled))

    assert not first.settled
    assert repr(first).endswith(", not settled)")
