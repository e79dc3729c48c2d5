"""`segpipe runs` lists every run of a folder with its figures; what cannot be read is a line and no error."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from segpipe import testing
from segpipe.rundir.directory import RunDirectory
from stages.results.listing import list_runs
from tests.calling import call
from tests.old_runs import unpack
from tests.tiny import write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs: what an old version left, and one made by hand."""
    unpack("run", tmp_path).rename(tmp_path / "old")
    testing.make_run(tmp_path / "small")
    return tmp_path


def listed(folder: Path) -> dict[str, dict[str, Any]]:
    code, out, err = call("runs", folder, "--json")
    assert (code, err) == (0, "")
    return {line["run"]: line for line in json.loads(out)}


def test_each_run_is_a_line_with_its_figures(folder: Path) -> None:
    assert listed(folder)["old"] == {
        "run": "old",
        "network": "skipnet",
        "miou": 0.0,
        "miou_on": "test",
        "miou_of_all": None,
        "gate": "passed",
        "p50_ms": 0.3328,
        "made_utc": "2026-11-21T17:52:02+00:00",
        "stale": [],
        "trouble": None,
    }
    assert "0.0000 test  passed  0.33" in call("runs", folder)[1]


def test_a_run_with_classes_that_are_not_scored_tells_both_means(folder: Path) -> None:
    path = folder / "old" / "manifest.json"
    content = json.loads(path.read_text())
    content["stages"]["train"]["figures"] |= {"test_miou": 0.572, "test_miou_of_all": 0.5243, "unscored": ["void"]}
    path.write_text(json.dumps(content))

    line = listed(folder)["old"]

    assert (line["miou"], line["miou_of_all"]) == (0.572, 0.5243)
    assert "0.5720 (0.5243 of all classes) test" in call("runs", folder)[1]


def test_the_newest_is_first(folder: Path) -> None:
    for name, moment in [("old", "2030-01-01T00:00:00+00:00"), ("small", "2030-01-01T00:00:00+02:00")]:
        path = folder / name / "manifest.json"
        content = json.loads(path.read_text())
        for record in content["stages"].values():
            record["started_utc"] = moment
        path.write_text(json.dumps(content))
    write_tiny(folder / "new")

    assert [line.run for line in list_runs(folder)] == ["old", "small", "new"]


def test_a_stale_figure_says_so(folder: Path) -> None:
    path = folder / "old" / "config.json"
    content = json.loads(path.read_text())
    content["chosen"]["train"]["epochs"] = 9
    path.write_text(json.dumps(content))

    assert listed(folder)["old"]["stale"] == ["benchmark", "build", "export", "train", "validate"]
    assert "0.0000 test (stale)  passed (stale)  0.33 (stale)" in call("runs", folder)[1]


def break_manifest(run: Path) -> None:
    (run / "manifest.json").write_text("{")


def newer(run: Path) -> None:
    (run / "manifest.json").write_text('{"schema": 99}')


def fifo(run: Path) -> None:
    (run / "manifest.json").unlink()
    os.mkfifo(run / "manifest.json")


def break_config(run: Path) -> None:
    (run / "config.json").write_text("[]")


@pytest.mark.parametrize("spoil", [break_manifest, newer, fifo, break_config])
def test_a_broken_run_is_a_line_that_says_why(spoil: Any, folder: Path) -> None:
    spoil(folder / "old")
    lines = listed(folder)

    assert lines["old"]["trouble"]
    assert lines["old"]["gate"] is None
    assert lines["small"]["trouble"] is None


def test_figures_that_cannot_be_read_are_left_out(folder: Path) -> None:
    path = folder / "old" / "manifest.json"
    content = json.loads(path.read_text())
    content["stages"]["train"]["figures"] = {"test_miou": "high"}
    content["stages"]["train"]["params"]["model"] = 3
    path.write_text(json.dumps(content))

    assert {key: listed(folder)["old"][key] for key in ("miou", "network", "gate")} == {
        "miou": None,
        "network": None,
        "gate": "passed",
    }


def test_a_run_that_has_not_begun_is_a_line_and_other_folders_are_none(folder: Path) -> None:
    write_tiny(folder / "new")
    (folder / "photos").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "gone").symlink_to(folder / "nowhere")
    (folder / "elsewhere").symlink_to(folder / "small")
    lines = listed(folder)

    assert set(lines) == {"old", "small", "new", "elsewhere"}
    assert "nothing has run" in lines["new"]["trouble"]


def test_a_run_with_nothing_finished_says_so(folder: Path) -> None:
    RunDirectory.create(folder / "begun")

    assert listed(folder)["begun"]["trouble"] == "nothing has finished"


@pytest.mark.parametrize(("name", "said"), [("none", "is no folder"), ("empty", "holds no runs"), ("old", "itself")])
def test_a_folder_without_runs_is_one_line_with_what_to_do(name: str, said: str, folder: Path) -> None:
    (folder / "empty").mkdir()
    code, out, err = call("runs", folder / name)

    assert (code, out) == (1, "")
    assert said in err
    assert err.count("\n") == 1


def test_only_manifest_and_config_of_a_run_are_read(folder: Path) -> None:
    for stage in ("train", "export", "validate", "benchmark", "build"):
        shutil.rmtree(folder / "old" / stage)

    assert listed(folder)["old"]["gate"] == "passed"
