"""The gate on Mask R-CNN: what rounding does passes, a head, a threshold or a box that is another does not."""

from typing import Any

import pytest
import torch

from benchmarks.mask_rcnn import DEFECTS
from stages.models.mask_rcnn.network import StaticMaskRCNN
from tests.mask_rcnn_answers import SAME, answers, failed, made, reference
from tests.tiny_mask_rcnn import CONTRACT

_OTHERS = {"lost_things", "extra_things"}
LIMITS = {
    "an NMS threshold of 0.6": _OTHERS,
    "an NMS threshold of 0.6 of proposals": _OTHERS,
    "boxes one pixel to the right and down": {"thing_boxes_px", "lost_things"},
}
"""Of which one at least is not held, where it is not the maps'."""


def with_defect(name: str) -> StaticMaskRCNN:
    network = made()
    with torch.no_grad():
        DEFECTS[name](network)
    return network


def test_the_network_finds_sure_things_and_is_equal_to_itself() -> None:
    assert sum(len(found.above(0.375)) for found in reference()) >= 20
    assert all(found.settled for found in reference())
    assert failed(answers(with_defect("nothing")), SAME) == {}


@pytest.mark.parametrize("defect", sorted(DEFECTS.keys() - {"nothing"}))
def test_a_planted_defect_fails_its_limit(defect: str) -> None:
    assert failed(answers(with_defect(defect))).keys() & LIMITS.get(defect, {"map_relative_l2"})


@pytest.mark.parametrize("wrong", [{"channel_order": "bgr"}, {"mean": (0.0,) * 3}])
def test_what_is_done_wrong_to_the_frame_fails(wrong: dict[str, Any]) -> None:
    assert "map_relative_l2" in failed(answers(made(), CONTRACT.model_copy(update=wrong)))


def test_a_network_that_ended_early_says_so_of_its_answer() -> None:
    (first, *_) = answers(with_defect("one step of suppression"))

    assert not first.settled
    assert repr(first).endswith(", not settled)")
