"""The committed figures: the README says what benchmarks/results hold, and only sound figures are kept."""

from pathlib import Path

import pytest

from benchmarks.keep import keep
from benchmarks.readme_table import README, table, with_table
from segpipe.rundir import RunDirectory
from tests.test_report_page import replace_output


def test_the_readme_holds_the_committed_figures() -> None:
    text = README.read_text(encoding="utf-8")

    assert with_table(text, table()) == text, "run `python -m benchmarks.readme_table`"


def test_without_figures_the_readme_says_how_to_get_them(tmp_path: Path) -> None:
    text = with_table(README.read_text(encoding="utf-8"), table(tmp_path))

    assert "No figures are kept yet" in text
    assert with_table(text, table(tmp_path)) == text


def test_a_kept_report_becomes_a_table(finished_run: Path, tmp_path: Path) -> None:
    path = keep(finished_run, "tiny", tmp_path)
    text = table(tmp_path)

    assert path.parent.parent == tmp_path
    assert text.startswith("**tiny**: frames of 48x80")
    assert "| segpipe onnxruntime-cpu |" in text
    readme = with_table(README.read_text(encoding="utf-8"), text)
    assert text in readme
    assert with_table(readme, text) == readme


def test_partial_figures_are_not_kept(run_copy: Path, tmp_path: Path) -> None:
    path = RunDirectory(run_copy).artifact("benchmark", "report.json")
    replace_output(run_copy, "benchmark", path, path.read_bytes().replace(b'"partial": false', b'"partial": true'))

    with pytest.raises(SystemExit, match="partial"):
        keep(run_copy, "tiny", tmp_path)


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        with_table("no marks", "table")
