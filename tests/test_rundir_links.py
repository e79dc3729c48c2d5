"""Nothing outside a run is deleted or written: links, foreign manifests, locks that are something else."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

import pytest

from segpipe.errors import RunLockedError, SegpipeError, StorageError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.status import run_status
from segpipe.rundir.verify import verify
from tests.test_rundir import A, make, work_in_progress


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder on a bigger disk, with files of its owner, some under the names that stages use."""
    folder = tmp_path / "elsewhere"
    for name in ("photo.png", "0123456789ab/other-run.bin", "0123456789ab.partial/resume/point", "resume/mine"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    return folder


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def linked_home(run: RunDirectory, target: Path) -> None:
    """The stage's folder moved to another disk, as a user would."""
    home = run.path / "train"
    for path in home.iterdir():
        path.rename(target / path.name)
    home.rmdir()
    home.symlink_to(target)


def linked_folder(run: RunDirectory, target: Path) -> None:
    folder = run.path / run.record("train").path
    for path in folder.iterdir():
        path.rename(target / path.name)
    folder.rmdir()
    folder.symlink_to(target)


@pytest.mark.parametrize("link", [linked_home, linked_folder])
def test_a_linked_stage_folder_is_read_but_never_deleted_from(
    link: Any, empty_run: RunDirectory, elsewhere: Path
) -> None:
    make(empty_run)
    link(empty_run, elsewhere)
    before = files_of(elsewhere)

    assert not make(empty_run), "it is fresh"
    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    with pytest.raises(StorageError, match=r"is a symbolic link.*move the whole run directory"):
        make(empty_run, "two")
    with pytest.raises(StorageError, match="is a symbolic link"):
        make(RunDirectory(empty_run.path, frozenset({"train"})))
    assert files_of(elsewhere) == before
    assert [line.state for line in run_status(empty_run)] == ["fresh"]
    assert not any(finding.is_damage for finding in verify(empty_run)[1])


def test_a_run_that_is_itself_a_link_is_written_as_ever(empty_run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(empty_run.path)
    run = RunDirectory(tmp_path / "link")

    assert [make(run), make(run, "two"), make(run, "two")] == [True, True, False]
    assert verify(run) == (1, [])


@pytest.mark.parametrize("place", ["", "/resume", "/pictures"])
def test_work_in_progress_is_not_continued_through_a_link(place: str, empty_run: RunDirectory, elsewhere: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"), empty_run.step("train", {}, {}) as step:
        raise RuntimeError("killed")
    (partial,) = (empty_run.path / "train").iterdir()
    if place == "":
        partial.rmdir()
    Path(f"{partial}{place}").symlink_to(elsewhere)
    before = files_of(elsewhere)

    with pytest.raises(StorageError, match="is a symbolic link"), empty_run.step("train", {}, {}) as step:
        step.path("pictures/photo.png").write_text("ours")
    assert files_of(elsewhere) == before
    assert (elsewhere / "photo.png").read_text() == "precious"


def test_a_received_run_that_lists_no_outputs_empties_nothing(empty_run: RunDirectory, elsewhere: Path) -> None:
    make(empty_run)
    content = json.loads((empty_run.path / "manifest.json").read_text())
    content["stages"]["train"]["outputs"] = {}
    (empty_run.path / "manifest.json").write_text(json.dumps(content))
    folder = empty_run.path / content["stages"]["train"]["path"]
    (folder / "notes.txt").write_text("mine")
    (folder / "resume").symlink_to(elsewhere)
    before = files_of(elsewhere)

    assert make(RunDirectory(empty_run.path)), "a record without files is no finished stage"
    assert files_of(elsewhere) == before


def test_only_what_a_stage_wrote_is_deleted_from_a_finished_folder(empty_run: RunDirectory, elsewhere: Path) -> None:
    make(empty_run)
    folder = empty_run.artifact("train", "model.bin").parent
    (folder / "notes.txt").write_text("mine")
    (folder / "resume").mkdir()
    (folder / "resume" / "point").write_text("left by a kill")
    (folder / "resume" / "link").symlink_to(elsewhere)
    before = files_of(elsewhere)

    assert not make(empty_run)
    assert files_of(folder) == {"model.bin", "notes.txt"}
    assert files_of(elsewhere) == before


def test_what_a_killed_attempt_left_is_not_published(empty_run: RunDirectory) -> None:
    with pytest.raises(RuntimeError, match="killed"), empty_run.step("train", {"data": A}, {"content": "one"}) as step:
        step.path("pictures/worst-5.png").write_text("picture")
        work_in_progress(step).write_text("half")
        raise RuntimeError("killed")
    make(empty_run)

    assert files_of(empty_run.path / "train") == {f"{Path(empty_run.record('train').path).name}/model.bin"}
    assert verify(empty_run) == (1, [])


def test_superseded_folders_that_hold_links_are_deleted_without_their_targets(
    empty_run: RunDirectory, elsewhere: Path
) -> None:
    make(empty_run)
    old = empty_run.artifact("train", "model.bin").parent
    (old / "link").symlink_to(elsewhere)
    before = files_of(elsewhere)

    assert make(empty_run, "two")
    assert not old.exists()
    assert files_of(elsewhere) == before


def test_a_record_lies_in_its_own_stages_folder(empty_run: RunDirectory) -> None:
    make(empty_run)
    text = (empty_run.path / "manifest.json").read_text().replace('"train/', '"export/')
    (empty_run.path / "manifest.json").write_text(text)

    with pytest.raises(SegpipeError, match="another stage's folder"):
        RunDirectory(empty_run.path)


def test_the_lock_is_never_another_file(empty_run: RunDirectory, tmp_path: Path) -> None:
    victim, lock = tmp_path / "victim", empty_run.path / ".lock"
    victim.write_text("precious")
    lock.unlink()
    lock.symlink_to(victim)
    with pytest.raises(StorageError, match=r"cannot write .*\.lock"):
        make(empty_run)
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(StorageError, match="not a regular file"):
        make(empty_run)

    assert victim.read_text() == "precious"


@pytest.mark.parametrize("content", ["mine\n", "12 notes", "1" * 40])
def test_another_tools_lock_keeps_its_content(empty_run: RunDirectory, content: str) -> None:
    (empty_run.path / ".lock").write_text(content)

    assert make(empty_run)
    assert (empty_run.path / ".lock").read_text() == content
    (empty_run.path / ".lock").write_text("999999\n")
    assert make(empty_run, "two")
    assert (empty_run.path / ".lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_with_a_config_of_its_own_becomes_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"port": 80}')

    with pytest.raises(SegpipeError, match=r"config\.json is not a stored config.*use another folder"):
        RunDirectory.create(tmp_path)
    assert files_of(tmp_path) == {"config.json"}


def test_a_temporary_file_is_never_written_through_a_link(
    empty_run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr(os, "urandom", bytes)  # nobody knows the name before; if somebody did:
    link = empty_run.path / f".manifest.json.{os.getpid()}.00000000.segpipe-tmp"
    link.symlink_to(victim)
    (empty_run.path / ".folder.1.00000000.segpipe-tmp").mkdir()

    with pytest.raises(StorageError, match="cannot write"):
        make(empty_run)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.EIO])
def test_a_file_system_without_locks_is_named(
    code: int, empty_run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=rf"cannot be locked: {os.strerror(code)}.*local disk") as caught:
        make(empty_run)
    assert not isinstance(caught.value, RunLockedError)
