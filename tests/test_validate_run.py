"""The gate on whole runs: its files, its exit code, what it explains, and two runs compared."""

import json
import logging
import re
from pathlib import Path

import pytest

from segpipe.errors import (
    GateFailedError,
    NotValidatedError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import STAGE
from stages.pipeline import Selection, run_stages
from stages.results.gate import SCHEMA_FILE, GateReport, schema
from stages.validate.against import same_grid
from stages.validate.hops.stored import StoredReference
from tests.calling import call
from tests.cpu_rows import ROWS
from tests.planted_table import break_graph
from tests.trained import trained_config

GATE = Selection("validate", "validate")


def test_the_report_follows_its_published_schema(trained_run: Path) -> None:
    text = RunDirectory(trained_run).artifact_bytes(STAGE, "report.json")
    report = GateReport.model_validate_json(text)

    assert json.loads(SCHEMA_FILE.read_text()) == schema(), "run `python -m stages.results.gate`"
    assert set(report.hops) >= {"onnx", "fp16"}
    assert {hop.status for hop in report.hops.values()} == {"passed"}
    assert report.hops["fp16"].before.hop == "onnx"
    assert sum(bin_.flips for bin_ in report.hops["fp16"].flip_margins) == report.hops["fp16"].figures.flips
    assert b"NaN" not in text
    assert b"Infinity" not in text


def test_every_stress_input_went_through_every_hop(trained_run: Path) -> None:
    images = StoredReference(RunDirectory(trained_run)).images()
    names = {image.name for image in images if image.stress}
    report = GateReport.model_validate_json(RunDirectory(trained_run).artifact_bytes(STAGE, "report.json"))

    assert {"black", "grey", "white", "noise", "extreme contrast", "one pixel changed"} < names
    assert {"size 1x1", "size 96x160"} < names
    assert {hop.stress.inputs for hop in report.hops.values()} == {len(names)}


def test_the_page_is_one_file_with_its_pictures(trained_run: Path) -> None:
    run = RunDirectory(trained_run)
    page = run.artifact_bytes(STAGE, "gate.html").decode()
    pictures = GateReport.model_validate_json(run.artifact_bytes(STAGE, "report.json")).pictures
    shown = sum(picture.flips > 0 for picture in pictures)  # some processors' FP16 moves no pixel here

    assert len(pictures) == 2
    assert page.count('alt="reference: ') >= shown
    assert ("data:image/" in page) == bool(shown)
    assert shown or "No pixel differs" in page
    assert 'href="../../report.html"' in page
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", page)  # where chance spells it
    assert "Release gate: passed" in run.artifact_bytes(STAGE, "gate.md").decode()


def test_a_broken_layer_fails_names_itself_and_stays_failed(
    trained_copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_graph(trained_copy)
    caplog.set_level(logging.ERROR)

    for _ in range(2):
        with pytest.raises(GateFailedError, match="relative_l2") as caught:
            run_stages(trained_copy, trained_config(trained_copy), trained_copy, GATE)
        assert caught.value.exit_code == 3
    lines = [record.message for record in caplog.records]
    assert any(line.startswith("hop 'onnx': relative_l2") for line in lines)
    assert any("first diverging layer is module 'down2.4' (ONNX node" in line for line in lines)
    with pytest.raises(NotValidatedError, match="was judged: failed"):
        Segmenter.open(trained_copy)


def test_the_command_exits_3_with_a_line_for_each_failed_limit(trained_copy: Path) -> None:
    code, out, err = call("validate", trained_copy, "--set", "validate.limits.max_relative_l2=1e-12")

    assert code == 3
    assert out == ""
    assert [line for line in err.splitlines() if line.startswith("hop 'fp16': relative_l2")]
    assert err.splitlines()[-1].startswith("error: the release gate failed")


def test_explain_speaks_of_hops_that_pass(trained_run: Path) -> None:
    code, out, _ = call("validate", trained_run, "--explain")

    assert code == 0
    assert "hop 'fp16', shapes-val-" in out
    assert "stays within FP16's rounding" in out
    assert "pre- or post-processing" not in out


def test_options_that_exclude_each_other_are_refused(trained_run: Path) -> None:
    assert call("validate", trained_run, "--explain", "--hop", "engine")[0] == 2
    assert call("validate", trained_run, "--hop", "engine", "--set", "validate.images=1")[0] == 2


def test_a_run_against_itself_agrees_and_against_a_broken_one_does_not(trained_run: Path, trained_copy: Path) -> None:
    same = call("validate", trained_run, "--against", trained_copy)
    break_graph(trained_copy)
    code, out, err = call("validate", trained_copy, "--against", trained_run)

    assert same[0] == 0
    assert "100.0000%" in same[1]
    assert code == 3
    assert "onnxruntime-cpu" in out
    *limits, error = err.splitlines()
    assert limits
    assert limits[0].startswith("'onnxruntime-cpu': ")
    compared = tuple(f"'{row.name}': " for row in ROWS)
    assert all(line.startswith(compared) and " (limit " in line for line in limits)
    assert error.startswith("error: the two runs differ: 'onnxruntime-cpu': ")
    assert "relative_l2" in error
    assert " (limit " not in error


@pytest.mark.parametrize(
    "change",
    [{"output_stride": 2}, {"output_kind": "probabilities"}, {"network_size": (96, 96)}, {"fit": "letterbox"}],
)
def test_networks_of_other_scores_are_compared_by_their_masks(trained_run: Path, change: dict[str, object]) -> None:
    contract = run_contract(RunDirectory(trained_run))

    assert same_grid(contract, contract)
    assert not same_grid(contract, contract.model_copy(update=change))
