"""Ctrl-C in commands that judge and report: what was there stays whole, and the command works when given again."""

from contextlib import suppress
from pathlib import Path

import pytest

from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import verify
from segpipe.verdict import stored_verdicts
from stages.benchmark.duel import Terms, compare_runs
from stages.report import write_report
from stages.validate.without_pytorch import validate_hop
from tests.interrupts import Interrupt, places_in, pressed_after
from tests.tiny import tiny_config

PLACES = 8


def test_ctrl_c_anywhere_in_hop_leaves_a_whole_run_and_the_next_one_judges(trained_copy: Path) -> None:
    def judge() -> list[str]:
        return validate_hop(RunDirectory(trained_copy), "onnxruntime-cpu")

    for place in places_in(judge, PLACES):
        with suppress(KeyboardInterrupt), Interrupt(place):
            judge()
        run = RunDirectory(trained_copy)

        assert {entry.status for entry in stored_verdicts(run)} <= {"passed", "not judged"}
        assert [finding.path for finding in verify(run)[1] if finding.is_damage] == [], place
    assert judge() == ["export/model.onnx on onnxruntime-cpu (cpu): passed"]


def test_ctrl_c_anywhere_in_report_leaves_the_page_that_was_there(empty_run: RunDirectory) -> None:
    page = write_report(empty_run)
    text = page.read_bytes()

    for place in places_in(lambda: write_report(empty_run), PLACES):
        with suppress(KeyboardInterrupt), Interrupt(place):
            write_report(empty_run)

        assert page.read_bytes() == text, place
    assert [path.name for path in page.parent.glob(".*tmp")] == []


def test_ctrl_c_ends_a_comparison_at_once(finished_run: Path, tmp_path: Path) -> None:
    endless = Terms(margin=0.05, seconds=3600)

    with pytest.raises(KeyboardInterrupt), pressed_after("runs export/model.onnx", seconds=1):
        compare_runs((finished_run, finished_run), tiny_config(tmp_path), "onnxruntime-cpu", endless)
