"""What the release gate runs again for, and how it names a training without accuracy."""

import json
from pathlib import Path

from segpipe.rundir import manifest
from segpipe.rundir.directory import RunDirectory
from stages.pipeline import Selection, run_stages
from tests.tiny import tiny_config
from tests.trained import replace_output

GATE = Selection("validate", "validate")


def test_pictures_of_a_training_do_not_make_the_gate_run_again(run_copy: Path) -> None:
    before = RunDirectory(run_copy).record("validate")
    replace_output(RunDirectory(run_copy), "train", "curves.png", b"another font")

    run_stages(run_copy, tiny_config(run_copy), run_copy, GATE)

    assert RunDirectory(run_copy).record("validate") == before


def test_a_training_that_recorded_an_accuracy_of_nothing_is_not_called_unrecorded(run_copy: Path) -> None:
    run = RunDirectory(run_copy)
    record = run.record("train")
    record.figures["val_miou"] = 0.0
    manifest.save(run_copy, run.manifest.with_stage("train", record, None))

    run_stages(run_copy, tiny_config(run_copy), run_copy, Selection("validate", "validate", force=True))

    report = json.loads(RunDirectory(run_copy).artifact_bytes("validate", "report.json"))
    (check,) = report["data_checks"]
    assert check["name"] == "reference_miou_share"
    assert check["status"] == "not judged"
    assert "training recorded an mIoU of 0" in check["line"]
