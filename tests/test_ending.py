"""How `segpipe run` ends: figures, report and next command for people on stderr, the path for scripts on stdout."""

import os
from pathlib import Path

from segpipe.rundir.directory import RunDirectory
from stages.ending import figure_lines
from stages.report import fresh_report
from tests.calling import call


def test_a_whole_run_ends_with_its_figures_and_the_next_command(run_copy: Path) -> None:
    code, out, err = call("run", run_copy)
    lines = err.splitlines()[-6:]

    assert (code, out) == (0, f"{run_copy}\n")
    assert [line.split()[0] for line in lines] == ["accuracy", "engine", "agreement", "latency", "report", "next"]
    assert lines[3].endswith("too few samples: 3") or "other work had" in lines[3]
    assert (run_copy / "report.html").is_file()
    assert lines[-1] == f"next        segpipe predict {run_copy} IMAGES -o OUT"


def test_a_part_of_a_run_tells_of_that_part_and_how_to_go_on(run_copy: Path) -> None:
    code, out, err = call("run", run_copy, "--until", "export")
    lines = err.splitlines()

    assert (code, out) == (0, f"{run_copy}\n")
    assert [line.split()[0] for line in lines[-2:]] == ["accuracy", "next"]
    assert lines[-1] == f"next        segpipe run {run_copy}"
    assert not (run_copy / "report.html").exists()


def test_the_report_is_written_again_only_after_the_run_changed(run_copy: Path) -> None:
    page, manifest = fresh_report(RunDirectory(run_copy)), run_copy / "manifest.json"
    page.write_text("seen")
    kept = fresh_report(RunDirectory(run_copy)).read_text()
    os.utime(manifest, ns=(page.stat().st_mtime_ns + 1,) * 2)

    assert kept == "seen"
    assert fresh_report(RunDirectory(run_copy)).read_text() != "seen"


def test_a_run_with_nothing_done_has_no_figures(empty_run: RunDirectory) -> None:
    assert figure_lines(empty_run) == []
