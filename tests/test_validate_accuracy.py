"""Floors of accuracy: off unless set, compared with the labels for the reference and every hop, and said either way."""

import logging
from pathlib import Path

import numpy as np
import pytest

from segpipe.contract.schema import Contract
from segpipe.errors import GateFailedError, NotValidatedError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import STAGE
from stages.config.file import load_config
from stages.config.root import Limits, ValidateConfig
from stages.config.starter import write_starter
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.pipeline import Selection, run_stages
from stages.report import write_report
from stages.results.gate import ACCURACY, GateReport
from stages.validate.hops.stored import Keeper
from stages.validate.judging.accuracy import hop_accuracy, reference_accuracy
from stages.validate.without_pytorch import validate_hop
from tests.calling import call
from tests.trained import trained_config

GATE = Selection("validate", "validate")
CLASSES = ("road", "sky", "pole")
LABELS = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.uint8)
BASIS_BEFORE_FLOORS = "6ae4fb77acd862ef27e72ece4c5547e034f87ed819afd1b40ddc637ff79be8b6"
OUT_OF_REACH, REACHED_BY_ALL = "validate.limits.min_miou=1.0", "validate.limits.min_miou=0.001"


def compared(mask: np.ndarray, candidate: np.ndarray, labels: np.ndarray | None) -> MaskComparison:
    """One image through reference and hop."""
    shape = MaskShape(len(CLASSES), boundary_px=1)
    masks = MaskComparison(shape)
    masks.add(Truth.of(mask, labels, None, shape), candidate)
    return masks


def judged_report(run: Path) -> GateReport:
    """What the gate wrote."""
    return GateReport.model_validate_json(RunDirectory(run).artifact_bytes(STAGE, "report.json"))


def test_floors_are_off_unless_set_and_leave_what_verdicts_rest_on_as_it_was() -> None:
    masks = compared(LABELS, LABELS, LABELS)

    assert hop_accuracy(masks, Limits(), CLASSES) == []
    assert reference_accuracy(masks, Limits(), CLASSES) == []
    assert (
        Keeper(8, Contract(classes=CLASSES, network_size=(8, 8)), 0.1).basis_sha256(ValidateConfig())
        == BASIS_BEFORE_FLOORS
    )


def test_every_floor_of_accuracy_is_told_as_one() -> None:
    masks, limits = compared(LABELS, LABELS, LABELS), Limits()
    unset = {name: 1 for name, limit in limits.model_dump().items() if limit is None}
    every = limits.model_copy(update=unset)

    held = [*hop_accuracy(masks, every, CLASSES), *reference_accuracy(masks, every, CLASSES)]

    assert {check.name for check in held} == ACCURACY


def test_a_hop_is_judged_by_its_own_masks_and_the_reference_by_its_own() -> None:
    worse = LABELS.copy()
    worse[0, :2] = 2  # road: 2 of 4; sky: whole; nobody labelled a pole
    masks = compared(LABELS, worse, LABELS)
    limits = Limits(min_miou=0.8, min_class_iou=0.6)

    (miou, worst) = hop_accuracy(masks, limits, CLASSES)
    assert (miou.name, miou.value, miou.status) == ("miou", 0.75, "failed")
    assert (worst.name, worst.value, worst.status) == ("class_iou", 0.5, "failed")
    assert "class 'road', 4 pixels" in worst.line()
    assert [check.status for check in reference_accuracy(masks, limits, CLASSES)] == ["passed", "passed"]


def test_without_labels_accuracy_is_not_judged() -> None:
    ignored = np.full_like(LABELS, 255)
    for labels in (None, ignored):
        checks = hop_accuracy(compared(LABELS, LABELS, labels), Limits(min_miou=0.5, min_class_iou=0.5), CLASSES)

        assert [check.status for check in checks] == ["not judged", "not judged"]
        assert {check.why_not for check in checks} == {"no labels"}


def test_a_network_under_the_floor_fails_and_no_layer_is_blamed(trained_copy: Path) -> None:
    code, _, err = call("validate", trained_copy, "--set", OUT_OF_REACH)
    figures = RunDirectory(trained_copy).record(STAGE).figures

    assert code == 3
    assert "data: reference_miou" in err
    assert "hop 'onnx': miou" in err
    assert "hop 'fp16': miou" in err
    assert figures["suspicions"] == figures["diverges"] == []
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy)
    with pytest.raises(GateFailedError, match="data: reference_miou"):  # though 8 stored images say little of accuracy
        validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [((REACHED_BY_ALL,), "fidelity and accuracy"), ((), "fidelity, not accuracy")],
)
def test_terminal_page_report_and_show_name_what_was_judged(
    trained_copy: Path, caplog: pytest.LogCaptureFixture, overrides: tuple[str, ...], said: str
) -> None:
    caplog.set_level(logging.INFO)
    config = trained_config(trained_copy, *overrides)
    run_stages(trained_copy, config, trained_copy, Selection("validate", "validate", force=True))
    run = RunDirectory(trained_copy)

    assert f"validate: passed ({said}" in caplog.text
    assert f"({said}" in run.artifact_bytes(STAGE, "gate.html").decode()
    assert f"# Release gate: passed ({said}" in run.artifact_bytes(STAGE, "gate.md").decode()
    assert f"passed ({said})" in call("show", trained_copy)[1]
    assert f"({said})" in write_report(run).read_text()


def test_what_kept_accuracy_from_being_judged_is_said(trained_run: Path) -> None:
    report = judged_report(trained_run)
    hops = {
        name: hop.model_copy(update={"figures": hop.figures.model_copy(update={"miou": None})})
        for name, hop in report.hops.items()
    }

    assert report.judged == "fidelity, not accuracy: no floor is set (validate.limits.min_miou)"
    assert report.model_copy(update={"hops": hops}).judged == "fidelity, not accuracy: no labels"


@pytest.mark.parametrize("template", ["demo", "camvid-cpu"])
def test_templates_whose_recipe_was_measured_have_floors(tmp_path: Path, template: str) -> None:
    write_starter(tmp_path, template)
    limits = load_config(tmp_path).validate_.limits

    assert limits.min_miou
    assert limits.min_class_iou
