"""Average precision and panoptic quality: what a perfect, a half and a wrong answer are worth."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.evaluate import evaluate_frames
from segpipe.id_maps import UNLABELLED, things_in
from segpipe.instance_metrics import InstanceMeter
from segpipe.instances import Instances
from tests.test_instances import CONTRACT, SIDE, decoded, frame, segmenter

LOST_A_ROW = 0.9  # COCO's mean over recalls of one thing of two is not exactly a half


def truth() -> NDArray[np.uint16]:
    """A disc and two boxes on the ground, all of them larger than COCO's smallest."""
    ids = np.zeros((SIDE, SIDE), np.uint16)
    ids[2:12, 2:12] = 1001
    ids[16:28, 4:14] = 2001
    ids[16:28, 18:30] = 2002
    return ids


def found_in(ids: NDArray[Any], semantic: NDArray[Any] | None = None) -> Instances:
    """The answer that says exactly this."""
    things = things_in(ids)
    if semantic is None:
        semantic = np.eye(3, dtype=np.float32)[np.minimum(ids // 1000, 2)].transpose(2, 0, 1)
    return replace(
        decoded(),
        boxes=np.array([thing.box for thing in things], np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.6, len(things)).astype(np.float32),
        labels=np.array([CONTRACT.thing_numbers.index(thing.label) for thing in things], np.int64),
        crops=tuple(thing.crop for thing in things),
        semantic=np.ascontiguousarray(semantic),
    )


def measured(*pairs: tuple[NDArray[Any], Instances]) -> Any:
    meter = InstanceMeter(CONTRACT)
    for true, answer in pairs:
        meter.add(true, answer)
    return meter.figures()


def test_the_truth_itself_is_worth_one() -> None:
    figures = measured((truth(), found_in(truth())))

    assert figures.masks["ap"] == pytest.approx(1)
    assert figures.boxes["ap75"] == pytest.approx(1)
    assert figures.panoptic == pytest.approx({"pq": 1, "sq": 1, "rq": 1})
    assert math.isnan(figures.masks["ap_large"])
    assert json.loads(json.dumps(figures.as_dict()))["masks"]["ap_large"] is None
    assert "mask AP 1.0000" in figures.mean()


def test_a_lost_thing_costs_its_class() -> None:
    ids = truth()
    seen = np.where(ids == 2002, 0, ids).astype(np.uint16)
    figures = measured((ids, found_in(seen)))

    assert 0 < figures.masks["ap50"] < LOST_A_ROW
    assert figures.panoptic["rq"] < 1


def test_two_classes_exchanged_are_worth_nothing() -> None:
    ids = truth()
    answer = found_in(ids)
    figures = measured((ids, replace(answer, labels=1 - answer.labels)))

    assert figures.masks["ap"] == 0
    assert figures.boxes["ap"] == 0


def test_nothing_found_is_zero_and_no_error() -> None:
    figures = measured((truth(), found_in(np.zeros((SIDE, SIDE), np.uint16))))

    assert figures.masks["ap"] == 0
    assert figures.panoptic["pq"] < 1


def test_frames_without_things_measure_no_precision() -> None:
    empty = np.zeros((SIDE, SIDE), np.uint16)
    figures = measured((empty, found_in(empty)))

    assert math.isnan(figures.masks["ap"])
    assert figures.panoptic["pq"] == pytest.approx(1)


@pytest.mark.parametrize("nobodys", [UNLABELLED, 2000])
def test_what_nobody_labelled_and_crowds_count_against_nobody(nobodys: int) -> None:
    """UNLABELLED, and the class of the boxes without a thing."""
    ids = truth()
    known = np.where(ids == 2002, nobodys, ids).astype(np.uint16)
    figures = measured((known, found_in(ids)))

    assert figures.masks["ap"] == pytest.approx(1)
    assert figures.panoptic["pq"] == pytest.approx(1)


def test_networks_of_boxes_alone_are_measured_by_boxes() -> None:
    contract = CONTRACT.model_copy(update={"masks": "none"})
    meter = InstanceMeter(contract)
    meter.add(truth(), replace(found_in(truth()), contract=contract, crops=()))

    figures = meter.figures()
    assert figures.boxes["ap"] == pytest.approx(1)
    assert (figures.masks, figures.panoptic) == ({}, {})


def test_evaluate_counts_things_as_it_counts_masks() -> None:
    ids = np.zeros((SIDE, SIDE), np.uint16)
    ids[8:24, 0:16] = 1001
    ids[0:16, 20:32] = 2001
    ticks: list[int] = []
    with segmenter() as opened:
        figures: Any = evaluate_frames(opened, [(frame(), ids)] * 2, ticks.append)

    assert (figures.frames, ticks) == (2, [1, 1])
    assert figures.boxes["ap"] == pytest.approx(1)
