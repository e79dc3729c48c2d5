"""The committed figures: the page of speed says what benchmarks/results hold, and only sound figures are kept."""

import json
from pathlib import Path

import pytest

from benchmarks.keep import keep
from benchmarks.speed_table import PAGE, cpu_table, table, with_tables
from segpipe.rundir.directory import RunDirectory
from tests.test_report_page import replace_output


def test_the_page_of_speed_holds_the_committed_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert with_tables(text, table(), cpu_table()) == text, "run `python -m benchmarks.speed_table`"


def test_without_figures_the_page_says_how_to_get_them(tmp_path: Path) -> None:
    text = with_tables(PAGE.read_text(encoding="utf-8"), table(tmp_path), cpu_table(tmp_path))

    assert "No figures are kept yet" in text
    assert with_tables(text, table(tmp_path), cpu_table(tmp_path)) == text


def test_a_kept_report_becomes_a_table(finished_run: Path, tmp_path: Path) -> None:
    path = keep(finished_run, "tiny", tmp_path)
    text = table(tmp_path)

    assert path.parent.parent == tmp_path
    assert text.startswith("**tiny**: frames of 48x80")
    assert "| segpipe onnxruntime-cpu |" in text
    page = with_tables(PAGE.read_text(encoding="utf-8"), text, cpu_table(tmp_path))
    assert text in page
    assert with_tables(page, text, cpu_table(tmp_path)) == page


def test_partial_figures_are_not_kept(run_copy: Path, tmp_path: Path) -> None:
    path = RunDirectory(run_copy).artifact("benchmark", "report.json")
    replace_output(run_copy, "benchmark", path, path.read_bytes().replace(b'"partial": false', b'"partial": true'))

    with pytest.raises(SystemExit, match="partial"):
        keep(run_copy, "tiny", tmp_path)


def test_cpu_figures_become_a_table_of_targets(tmp_path: Path) -> None:
    ratio = [2.0, 1.5, 2.5]
    frame = {"pre_and_post_of_bare": ratio, "faster_than_usual": ratio}
    report = {
        "machine": {"processor": "a processor"}, "threads": 2, "rounds": 15, "opening": {"beside_the_backend_ms": 7.0},
        "whole frame, 11 classes": frame, "whole frame, 19 classes": frame,
        "stream, 11 classes": {"stream_over_loop": ratio},
        "post-processing alone, 19 classes": {
            "faster_than_torch": ratio, "faster_than_opencv": ratio, "pixels_unlike_torch": 0
        },
    }  # fmt: skip
    (tmp_path / "runtime_cpu.json").write_text(json.dumps(report))

    text = cpu_table(tmp_path)

    assert text.startswith("a processor, 2 threads")
    assert "| `stream` over a plain loop | >= 1.15 | 2.00 (1.50 to 2.50) |" in text


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_tables("no marks", "table", "table")
