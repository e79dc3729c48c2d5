"""A run directory's steps: freshness, commits, and what a commit keeps."""

import json
import logging
import os
from pathlib import Path

import pytest

from segpipe.errors import (
    StorageError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.freshness import why_stale
from segpipe.rundir.step import Step
from segpipe.rundir.storage import sweep_temporaries, write_atomically
from segpipe.rundir.verify import verify

A, B = "a" * 64, "b" * 64


def make(run: RunDirectory, content: str = "one", data: str = A, stage: str = "train") -> bool:
    """Run a step that writes one file; whether it had work to do."""
    with run.step(stage, {"data": data}, {"content": content}) as step:
        if step.stale:
            step.path("model.bin").write_text(content)
        return step.stale


def work_in_progress(step: Step) -> Path:
    """A file that a body keeps for after a kill."""
    step.scratch().mkdir(exist_ok=True)
    return step.scratch() / "epoch-1"


def test_a_step_runs_once_and_is_then_fresh(empty_run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = make(empty_run), make(empty_run)

    assert (first, second) == (True, False)
    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    assert [record.message for record in caplog.records] == ["train: first run", "train: fresh, nothing to do"]


def test_a_changed_parameter_reruns_and_is_named(empty_run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    make(empty_run)
    caplog.set_level(logging.INFO)

    assert make(empty_run, "two")
    assert caplog.records[-1].message == "train: content one -> two"


def test_a_changed_input_reruns_and_is_named(empty_run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    make(empty_run)
    caplog.set_level(logging.INFO)

    assert make(empty_run, data=B)
    assert caplog.records[-1].message == "train: data changed"


def test_a_damaged_output_reruns(empty_run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    make(empty_run)
    empty_run.artifact("train", "model.bin").write_text("onf")
    caplog.set_level(logging.INFO)

    assert make(empty_run)
    assert caplog.records[-1].message == "train: its files are damaged or missing"
    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    assert verify(empty_run) == (1, [])


def test_a_forced_step_replaces_an_equal_one_without_touching_it_before_the_commit(empty_run: RunDirectory) -> None:
    make(empty_run)
    old = empty_run.artifact("train", "model.bin")
    forced = RunDirectory(empty_run.path, frozenset({"train"}))
    with forced.step("train", {"data": A}, {"content": "one"}) as step:
        assert step.stale
        step.path("model.bin").write_text("new")
        assert old.read_text() == "one"

    assert forced.artifact("train", "model.bin").read_text() == "new"
    assert not old.exists()


def test_what_lies_elsewhere_does_not_change_the_key(empty_run: RunDirectory) -> None:
    make(empty_run)
    inputs = [empty_run.artifact("train", "model.bin")]
    with empty_run.step("export", inputs, {}) as step:
        step.path("model.onnx").write_text("graph")
    forced = RunDirectory(empty_run.path, frozenset({"train"}))
    make(forced)  # the same bytes in another folder

    with forced.step("export", [forced.artifact("train", "model.bin")], {}) as step:
        assert not step.stale


def test_a_failing_body_keeps_the_old_result_and_its_work(empty_run: RunDirectory) -> None:
    make(empty_run)
    with pytest.raises(RuntimeError, match="boom"), empty_run.step("train", {"data": B}, {}) as step:
        work_in_progress(step).write_text("half")
        raise RuntimeError("boom")

    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    with pytest.raises(RuntimeError, match="again"), empty_run.step("train", {"data": B}, {}) as step:
        assert work_in_progress(step).read_text() == "half"
        raise RuntimeError("again")


def test_the_commit_drops_scratch_and_superseded_folders(empty_run: RunDirectory) -> None:
    make(empty_run)
    with empty_run.step("train", {"data": B}, {}) as step:
        work_in_progress(step).write_text("half")
        step.path("pictures/a.png").write_text("picture")

    left = sorted(
        path.relative_to(empty_run.path / "train").as_posix() for path in (empty_run.path / "train").rglob("*")
    )
    assert [name.partition("/")[2] for name in left] == ["", "pictures", "pictures/a.png"]
    assert verify(empty_run) == (1, [])


def test_what_a_user_keeps_beside_the_stages_stays(empty_run: RunDirectory) -> None:
    home = empty_run.path / "train"
    (home / "images").mkdir(parents=True)
    (home / "images" / "0.png").write_bytes(b"picture")
    for name in ("notes.txt", "0123456789ab", "0123456789ab-copy"):
        (home / name).write_text("mine")

    assert (make(empty_run), make(empty_run, "two"), make(empty_run, "two")) == (True, True, False)
    kept = {path.name for path in home.iterdir()}
    assert kept > {"images", "notes.txt", "0123456789ab", "0123456789ab-copy"}
    assert len(kept) == 5, "the superseded folder is gone"
    assert (home / "images" / "0.png").read_bytes() == b"picture"
    assert verify(empty_run) == (1, [])


@pytest.mark.parametrize("name", ["202611211903", "0123456789ab", "0123456789ab-2", "202611211903.partial"])
def test_a_users_folder_that_is_named_like_a_key_stays(empty_run: RunDirectory, name: str) -> None:
    mine = empty_run.path / "train" / name / "notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")

    assert (make(empty_run), make(empty_run, "two"), make(empty_run, "two")) == (True, True, False)
    assert mine.read_text() == "mine"
    state = "work in progress" if name.endswith(".partial") else "unknown, kept"
    assert [(found.path, found.state) for found in verify(empty_run)[1]] == [(f"train/{name}", state)]
    assert len(list((empty_run.path / "train").iterdir())) == 2, "the superseded folder is gone"


def test_folders_that_are_gone_are_forgotten(empty_run: RunDirectory) -> None:
    for content in ("one", "two", "three"):
        make(empty_run, content)
    make(empty_run, stage="export")

    noted = (empty_run.path / ".segpipe-folders").read_text().split()
    assert set(noted) == {record.path for record in empty_run.manifest.stages.values()}


def test_a_declared_output_that_was_not_written_is_a_defect_of_the_stage(empty_run: RunDirectory) -> None:
    with pytest.raises(StorageError, match=r"did not write its output model\.bin"), empty_run.step("x", {}, {}) as step:
        step.path("model.bin")

    assert empty_run.manifest.stages == {}


def test_what_a_killed_attempt_wrote_is_no_output(empty_run: RunDirectory) -> None:
    with pytest.raises(RuntimeError, match="killed"), empty_run.step("train", {}, {}) as step:
        step.path("model.bin").write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(StorageError, match=r"did not write its output model\.bin"):  # noqa: SIM117
        with empty_run.step("train", {}, {}) as step:
            step.path("model.bin")
    with empty_run.step("train", {}, {}) as step:
        step.path("model.bin").write_text("whole")
        assert step.path("model.bin").read_text() == "whole", "asked again, it is this attempt's"


def test_a_fresh_step_hands_out_no_paths(empty_run: RunDirectory) -> None:
    make(empty_run)

    with empty_run.step("train", {"data": A}, {"content": "one"}) as step:
        with pytest.raises(RuntimeError, match="stage 'train' is fresh"):
            step.path("model.bin")
        with pytest.raises(RuntimeError, match="stage 'train' is fresh"):
            step.scratch()
    assert not list(empty_run.path.glob("train/*.partial"))


def test_temporary_files_of_dead_processes_are_swept(empty_run: RunDirectory) -> None:
    left = empty_run.path / ".manifest.json.1.0123abcd.segpipe-tmp"  # 1 is always alive: numbers say nothing
    names = (".backup.20261121.tmp", ".notes.segpipe-tmp", "a.1.0123abcd.segpipe-tmp")
    others = [empty_run.path / name for name in names]
    for path in (left, *others):
        path.touch()
    make(empty_run)

    assert not left.exists()
    assert all(path.exists() for path in others)


def test_a_temporary_file_that_is_being_written_is_not_swept(
    empty_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Path] = []
    sync = os.fsync

    def unknown(process: int, signal: int) -> None:
        raise ProcessLookupError  # so it is in another container

    def sweep_first(descriptor: int) -> None:
        sweep_temporaries(empty_run.path)
        found.extend(empty_run.path.glob(".notes.*tmp"))
        sync(descriptor)

    monkeypatch.setattr(os, "kill", unknown)
    monkeypatch.setattr(os, "fsync", sweep_first)
    write_atomically(empty_run.path / "notes", b"bytes")

    assert len(found) == 1
    assert (empty_run.path / "notes").read_bytes() == b"bytes"


def test_the_manifest_holds_no_absolute_path(finished_run: Path) -> None:
    text = (finished_run / "manifest.json").read_text()

    assert str(finished_run.parent) not in text
    assert all(not record["path"].startswith("/") for record in json.loads(text)["stages"].values())


def test_inputs_that_came_or_went_are_told_apart_from_changed_ones(empty_run: RunDirectory) -> None:
    make(empty_run)
    record = empty_run.record("train").model_copy(update={"inputs": {"old": A, "both": A}, "params": {}})

    assert why_stale(record, {"both": "b" * 64, "new": A}, {}) == "both changed; new is new; old is gone"
