"""How `segpipe run` ends: figures, report and next command for people on stderr, the path for scripts on stdout."""

import html
import os
from pathlib import Path

import numpy as np

from segpipe import testing
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.report import fresh_report, write_report
from stages.results.ending import figure_lines, next_line
from tests.calling import call
from tests.trained import edit_checkpoint, replace_output


def test_a_whole_run_ends_with_its_figures_and_the_next_command(run_copy: Path) -> None:
    code, out, err = call("run", run_copy)
    lines = [line for line in err.splitlines()[-7:] if not line.startswith(("warning", "benchmark"))]

    assert (code, out) == (0, f"{run_copy}\n")
    assert [line.split()[0] for line in lines] == ["accuracy", "engine", "agreement", "latency", "report", "next"]
    assert lines[3].endswith("too few samples: 3") or "other work had" in lines[3]
    assert (run_copy / "report.html").is_file()


def test_a_judged_network_is_next_used(tmp_path: Path) -> None:
    run = RunDirectory(testing.make_run(tmp_path / "run"))

    assert next_line(run, "validate") == f"next        segpipe predict {run.path} IMAGES -o OUT"


def test_a_part_of_a_run_tells_of_that_part_and_how_to_go_on(run_copy: Path) -> None:
    code, out, err = call("run", run_copy, "--until", "export")
    lines = err.splitlines()

    assert (code, out) == (0, f"{run_copy}\n")
    assert [line.split()[0] for line in lines[-2:]] == ["accuracy", "next"]
    assert lines[-1] == f"next        segpipe run {run_copy}"
    assert not (run_copy / "report.html").exists()


def test_the_report_is_written_again_only_after_the_run_changed(run_copy: Path) -> None:
    page, manifest = fresh_report(RunDirectory(run_copy)), run_copy / "manifest.json"
    page.write_text("<!doctype html>seen")
    kept = fresh_report(RunDirectory(run_copy)).read_text()
    os.utime(manifest, ns=(page.stat().st_mtime_ns + 1,) * 2)

    assert kept == "<!doctype html>seen"
    assert fresh_report(RunDirectory(run_copy)).read_text() != kept


def test_a_run_with_nothing_done_has_no_figures(empty_run: RunDirectory) -> None:
    assert figure_lines(empty_run) == []


def test_a_network_that_answers_one_class_everywhere_is_told_of_and_next_is_training(run_copy: Path) -> None:
    """Fidelity passes: what is deployed is as useless as what was trained."""
    favoured = {"head.bias": np.array([0, 0, 1e3, 0, 0])}
    checkpoint = RunDirectory(run_copy).artifact_bytes("train", "model.safetensors")
    useless = edit_checkpoint(checkpoint, favoured.get)
    replace_output(RunDirectory(run_copy), "train", "model.safetensors", useless)

    settings = ("--set", "validate.limits.min_reference_miou_share=0")  # another network than training measured
    code, _, err = call("run", run_copy, "--from", "export", "--until", "validate", *settings)
    record = RunDirectory(run_copy).record("validate")
    name = run_contract(RunDirectory(run_copy)).classes[2]
    words = f"the network answers '{name}' on every image: train longer or check the labels"

    assert code == 0
    assert f"validate: warning: {words}" in err
    assert f"warning     {words}" in err
    assert err.splitlines()[-1].startswith(f"next        segpipe data check {run_copy}; then raise [train] epochs")
    for page in ("gate.md", "gate.html"):
        assert html.unescape((run_copy / record.path / page).read_text()).count(words) == 1
    header = html.unescape(write_report(RunDirectory(run_copy)).read_text()).partition("</header>")[0]
    assert words in header
    assert words in call("show", run_copy)[1]
