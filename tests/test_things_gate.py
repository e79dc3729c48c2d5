"""The gate on things: an honest answer passes, every planted defect fails the limit that is meant for it.

The answers are those of an oracle: maps made from the truth, picked as CentreMask picks.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segpipe.errors import BackendMissingError
from segpipe.id_maps import Crop, things_in
from segpipe.instances import Instances
from segpipe.runtime.request import Outputs
from segpipe.tasks import task_of
from stages.config.root import ValidateConfig
from stages.measuring.things import ThingsComparison, box_iou, crop_iou
from stages.models.centremask import REACH_PX, Decode
from stages.validate.hops.hop import Answered, Hop, of_things
from stages.validate.hops.inputs import Image
from stages.validate.judging.checks import Check, verdict_of
from stages.validate.judging.judge import Judge, Setup
from stages.validate.judging.things import FP32, ThingLimits, thing_checks
from stages.validate.pages.report import hop_reports
from tests.test_centremask import CONTRACT as LEARNT
from tests.test_centremask import SIZE, split

CONTRACT = LEARNT.model_copy(update={"threshold": 0.05})
FRAMES = 2
HALF = ThingLimits()
Maps = dict[str, NDArray[np.float32]]
Change = Callable[[Maps], Maps]


def maps_of(ids: NDArray[Any]) -> Maps:
    """What a perfect network would say of this frame at stride 4."""
    height, width = (side // 4 for side in SIZE)
    things = things_in(ids)
    maps = {
        "heat": np.full((4, height, width), -6, np.float32),
        "reach": np.ones((4, height, width), np.float32),
        "coefficients": np.zeros((12, height, width), np.float32),
        "prototypes": np.full((12, height, width), -4, np.float32),
        "semantic": np.zeros((5, height, width), np.float32),
    }
    maps["semantic"][0] = 1
    for number, thing in enumerate(things):
        left, top, right, bottom = thing.box
        row, column = min((top + bottom) // 8, height - 1), min((left + right) // 8, width - 1)
        x, y = 4 * column + 2, 4 * row + 2
        maps["heat"][thing.label - 1, row, column] = 1 + 0.2 * number
        maps["reach"][:, row, column] = np.array([x - left, y - top, right - x, bottom - y]) / REACH_PX
        maps["coefficients"][number, row, column] = 1
        share = (ids == thing.code).reshape(height, 4, width, 4).mean((1, 3))
        maps["prototypes"][number] = 8 * share - 4
    return maps


def answer_of(maps: Maps, change_rows: Callable[[dict[str, Any]], None] = lambda rows: None) -> Instances:
    """Rows picked from the maps, and what the runtime makes of them."""
    heat, reach, coefficients = (torch.from_numpy(maps[name])[None] for name in ("heat", "reach", "coefficients"))
    scores, labels, boxes, chosen = (part[0].numpy() for part in Decode(CONTRACT.top, 4)(heat, reach, coefficients))
    masks = np.einsum("kp,phw->khw", chosen, maps["prototypes"])
    rows = {**maps, "scores": scores, "labels": labels, "boxes": boxes, "masks": masks}
    change_rows(rows)
    answer = task_of(CONTRACT).decode(rows, CONTRACT.place(*SIZE), Outputs(scores=True))
    assert isinstance(answer, Instances)
    return answer


@cache
def frames() -> list[tuple[NDArray[Any], Instances]]:
    found = [split("val").sample(index)[1] for index in range(FRAMES)]
    return [(ids, answer_of(maps_of(ids))) for ids in found]


def judged(changed: Callable[[NDArray[Any], Instances], Instances], limits: ThingLimits = HALF) -> list[Check]:
    """The checks of a candidate that answers otherwise."""
    comparison = ThingsComparison()
    for number, (ids, reference) in enumerate(frames()):
        comparison.add(reference, changed(ids, reference), f"frame {number}", ids)
    return thing_checks(comparison, limits)


def failed(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if check.status == "failed"}


def with_maps(change: Change) -> Callable[[NDArray[Any], Instances], Instances]:
    return lambda ids, _: answer_of(change(maps_of(ids)))


def with_rows(change: Callable[[dict[str, Any]], None]) -> Callable[[NDArray[Any], Instances], Instances]:
    return lambda ids, _: answer_of(maps_of(ids), change)


def scaled(name: str, factor: float) -> Change:
    return lambda maps: maps | {name: maps[name] * np.float32(factor)}


def shift_boxes(rows: dict[str, Any]) -> None:
    rows["boxes"] = rows["boxes"] + 1


def exchange_classes(rows: dict[str, Any]) -> None:
    rows["labels"] = np.array([1, 0, 3, 2])[rows["labels"]]


def shift_masks(rows: dict[str, Any]) -> None:
    rows["masks"] = np.roll(rows["masks"], 1, 2)


def exchange_scores(rows: dict[str, Any]) -> None:
    rows["scores"] = rows["scores"][::-1].copy()


def test_the_oracle_finds_things_and_is_judged_on_every_limit() -> None:
    checks = judged(lambda ids, reference: reference, FP32)

    assert sum(len(answer) for _, answer in frames()) >= 6
    assert [check.line() for check in checks if check.status != "passed"] == []
    assert {check.name for check in checks} >= {"lost_things", "thing_boxes_px", "map_relative_l2", "ap_drop"}


def test_rounding_to_half_precision_passes() -> None:
    half = with_maps(lambda maps: {n: values.astype(np.float16).astype(np.float32) for n, values in maps.items()})

    assert failed(judged(half)) == set()
    assert "map_relative_l2" in failed(judged(with_maps(scaled("heat", 1 + 3e-4)), FP32))


@pytest.mark.parametrize(
    ("defect", "limit"),
    [
        (with_rows(shift_boxes), "thing_boxes_px"),
        (with_rows(exchange_classes), "lost_things"),
        (with_rows(shift_masks), "thing_iou"),
        (with_rows(exchange_scores), "lost_things"),
        (with_maps(scaled("heat", 1.01)), "map_relative_l2"),
        (with_maps(scaled("reach", 1.01)), "map_relative_l2"),
        (with_maps(scaled("coefficients", 1.01)), "map_relative_l2"),
        (with_maps(scaled("prototypes", 1.01)), "map_relative_l2"),
        (with_maps(scaled("heat", float("nan"))), "map_non_finite"),
        (lambda ids, reference: reference.above(0.8), "lost_things"),
    ],
    ids=[
        "boxes shifted by a pixel", "classes exchanged", "masks one cell off", "scores of other rows", "heat x 1.01",
        "reach x 1.01", "coefficients x 1.01", "prototypes x 1.01", "no numbers", "things left out",
    ],
)  # fmt: skip
def test_a_planted_defect_fails_its_limit(defect: Callable[[NDArray[Any], Instances], Instances], limit: str) -> None:
    assert limit in failed(judged(defect))


def test_a_thing_more_fails() -> None:
    ids, reference = frames()[0]
    comparison = ThingsComparison()
    comparison.add(reference.above(0.75), reference, "frame 0", ids)

    assert "extra_things" in failed(thing_checks(comparison, ThingLimits()))
    assert "first in frame 0" in next(c.line() for c in thing_checks(comparison, ThingLimits()) if c.name[0] == "e")


def test_scores_near_the_threshold_may_fall_on_either_side() -> None:
    _, reference = frames()[0]
    near = replace(reference, scores=np.full(len(reference), 0.31, np.float32))
    comparison = ThingsComparison()
    comparison.add(near, replace(near, scores=np.full(len(near), 0.1, np.float32)), "frame")
    comparison.add(replace(near, scores=np.full(len(near), 0.1, np.float32)), near, "frame")

    assert (comparison.lost, comparison.extra) == (0, 0)


def gate_on(changed: Callable[[NDArray[Any], Instances], Instances], labelled: bool = True) -> Judge:
    """The gate's own judge, asked of one hop whose answers are these."""
    images = [Image(f"frame {n}", np.full((*SIZE, 3), n, np.uint8), ids) for n, (ids, _) in enumerate(frames())]
    known = {int(image.frame[0, 0, 0]): pair for image, pair in zip(images, frames(), strict=True)}

    def reference(frames: Sequence[NDArray[Any]]) -> list[Answered]:
        return [of_things(known[int(frame[0, 0, 0])][1]) for frame in frames]

    def candidate(frames: Sequence[NDArray[Any]]) -> list[Answered]:
        return [of_things(changed(*known[int(frame[0, 0, 0])])) for frame in frames]

    contract: Any = CONTRACT
    hop = Hop("planted", "export", "model.onnx", "", "onnxruntime-cpu", "cpu", candidate, "fp16")
    judge = Judge(Setup(contract, ValidateConfig()), reference, [hop])
    for image in images:
        judge.add(image if labelled else replace(image, labels=None))
    judge.finish()
    return judge


def checks_of(judge: Judge) -> list[Check]:
    contract: Any = CONTRACT
    (state,) = judge.states.values()
    return state.checks(Setup(contract, ValidateConfig()))


def test_the_gates_judge_passes_an_equal_hop_on_class_maps_maps_and_things() -> None:
    checks = checks_of(gate_on(lambda ids, reference: reference))

    assert verdict_of(checks) == "passed", [check.line() for check in checks]
    assert len({check.name for check in checks}) == len(checks)
    assert {"agreement", "relative_l2", "batch_agreement", "lost_things", "ap_drop"} <= {
        check.name for check in checks if check.status == "passed"
    }


def test_the_gates_judge_fails_a_hop_with_a_planted_defect() -> None:
    assert verdict_of(checks_of(gate_on(with_rows(shift_boxes)))) == "failed"
    assert "lost_things" in failed(checks_of(gate_on(with_rows(exchange_classes))))


def test_a_hops_row_tells_the_frames_of_what_is_lost_and_extra_and_how_precise_it_is() -> None:
    contract: Any = CONTRACT
    judge = gate_on(with_rows(exchange_classes))
    (things,) = (hop.things for hop in hop_reports(judge, Setup(contract, ValidateConfig()), {}).values())

    assert things is not None
    assert things.lost > 0
    assert (things.lost_at, things.extra_at) == ("frame 0", "frame 0")
    assert things.reference is not None
    assert things.hop is not None
    assert (things.reference.mask_ap or 0) - (things.hop.mask_ap or 0) > HALF.ap_drop
    assert None not in things.hop.model_dump().values()


def test_without_labels_a_hops_row_has_no_precision() -> None:
    contract: Any = CONTRACT
    judge = gate_on(lambda ids, reference: reference, labelled=False)
    (things,) = (hop.things for hop in hop_reports(judge, Setup(contract, ValidateConfig()), {}).values())

    assert things is not None
    assert (things.lost, things.lost_at, things.reference, things.hop) == (0, "", None, None)


def test_without_labels_precision_is_not_judged_and_the_rest_is() -> None:
    checks = checks_of(gate_on(lambda ids, reference: reference, labelled=False))

    assert verdict_of(checks) == "passed"
    assert {check.name for check in checks if check.status == "not judged"} >= {"ap_drop", "iou_drop"}


def test_where_nothing_is_there_nothing_is_judged() -> None:
    checks = {check.name: check.status for check in thing_checks(ThingsComparison(), ThingLimits())}

    assert set(checks.values()) == {"not judged"}


def test_two_things_without_a_pixel_are_the_same() -> None:
    empty = Crop(np.zeros((0, 0), np.bool_), 0, 0)

    assert crop_iou(empty, empty) == 1
    assert crop_iou(empty, Crop(np.ones((2, 2), np.bool_), 0, 0)) == 0
    assert box_iou(np.zeros(4), np.zeros(4)) == 1
    assert crop_iou(Crop(np.ones((2, 2), np.bool_), 0, 0), Crop(np.ones((2, 2), np.bool_), 1, 0)) == pytest.approx(
        1 / 3
    )


def test_a_machine_that_cannot_count_precision_still_judges_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that deploys has no library for it."""

    def missing() -> None:
        raise BackendMissingError("not installed", hint="install it")

    monkeypatch.setattr("segpipe.instance_metrics.require_counting", missing)
    monkeypatch.setattr("segpipe.tasks.instances.require_counting", missing)
    checks = {check.name: check for check in judged(lambda ids, reference: reference)}

    assert (checks["ap_drop"].status, checks["lost_things"].status) == ("not judged", "passed")
    assert "faster-coco-eval" in checks["ap_drop"].why_not
    with pytest.raises(BackendMissingError):
        task_of(CONTRACT).meter()
