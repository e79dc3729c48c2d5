"""RUN/latest holds copies of the pages and pictures of a run's newest stages, and nobody's file in it is lost."""

import shutil
from pathlib import Path

import pytest

from segpipe.bundle import write_bundle
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.latest import FOLDER
from segpipe.rundir.status import run_status
from segpipe.rundir.verify import verify
from tests.old_runs import unpack


def make(run: RunDirectory, picture: str, **more: str) -> None:
    """A stage that leaves a network and a picture, and whatever else is named."""
    with RunDirectory(run.path).step("train", {}, {"seed": picture}) as step:
        if step.stale:
            step.path("model.bin").write_text(picture)
            step.path("curves.png").write_text(picture)
            for name, content in more.items():
                step.path(f"{name}.png").write_text(content)


def shown(run: RunDirectory) -> dict[str, str]:
    """What a person finds there."""
    found = (run.path / FOLDER / "train").iterdir()
    return {path.name: path.read_text() for path in found if not path.name.startswith(".")}


def test_pages_and_pictures_of_a_finished_run_have_plain_names(run_copy: Path) -> None:
    with RunDirectory(run_copy).step("islands", {}, {}) as step:
        step.path("islands.json").write_text("[]")
    latest = run_copy / FOLDER

    for stage, name in [("train", "curves.png"), ("validate", "gate.html"), ("benchmark", "frames.png")]:
        made = RunDirectory(run_copy).artifact(stage, name)
        assert (latest / stage / name).read_bytes() == made.read_bytes()
    assert {path.suffix for path in latest.glob("*/[!.]*")} == {".html", ".png"}
    assert {path.name for path in latest.iterdir()} == {"train", "validate", "benchmark"}
    assert not any(path.is_symlink() for path in latest.rglob("*"))


def test_a_stage_made_anew_replaces_its_pictures_and_removes_those_it_no_longer_leaves(empty_run: RunDirectory) -> None:
    make(empty_run, "one", best="b")
    before = shown(empty_run)
    make(empty_run, "two")

    assert before == {"curves.png": "one", "best.png": "b"}
    assert shown(empty_run) == {"curves.png": "two"}


def test_a_fresh_run_gets_back_what_was_deleted(empty_run: RunDirectory) -> None:
    make(empty_run, "one")
    shutil.rmtree(empty_run.path / FOLDER)
    make(empty_run, "one")

    assert shown(empty_run) == {"curves.png": "one"}


@pytest.mark.parametrize("name", ["curves.png", "best.png", "mine.txt"])
def test_what_somebody_wrote_there_is_kept_and_said_once(
    name: str, empty_run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    make(empty_run, "one", best="b")
    (empty_run.path / FOLDER / "train" / name).write_text("mine")
    caplog.set_level("INFO")
    make(empty_run, "two", best="c")
    make(empty_run, "two", best="c")
    said = [record for record in caplog.records if "is kept" in record.message]

    assert shown(empty_run)[name] == "mine"
    assert len(said) == (name != "mine.txt")


def test_a_copy_of_a_copy_under_another_name_is_kept(empty_run: RunDirectory) -> None:
    make(empty_run, "one")
    folder = empty_run.path / FOLDER / "train"
    shutil.copy(folder / "curves.png", folder / "before.png")
    make(empty_run, "two")

    assert shown(empty_run) == {"curves.png": "two", "before.png": "one"}


def test_a_run_that_was_moved_or_zipped_goes_on_as_before(empty_run: RunDirectory, tmp_path: Path) -> None:
    make(empty_run, "one")
    shutil.make_archive(str(tmp_path / "sent"), "zip", empty_run.path)
    shutil.unpack_archive(tmp_path / "sent.zip", tmp_path / "received")
    received = RunDirectory(tmp_path / "received")

    assert shown(received) == {"curves.png": "one"}
    make(received, "two")
    assert shown(received) == {"curves.png": "two"}


@pytest.mark.parametrize("kind", ["latest", "stage", "file", "picture", "record"])
def test_nothing_outside_is_written_and_no_command_fails(kind: str, empty_run: RunDirectory, tmp_path: Path) -> None:
    latest, outside = empty_run.path / FOLDER, tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    places = {"latest": latest, "stage": latest / "train", "file": latest}
    places |= {"picture": latest / "train/curves.png", "record": latest / "train/.segpipe-made"}
    places[kind].parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        latest.write_text("mine")
    else:
        places[kind].symlink_to(outside if kind in {"latest", "stage"} else outside / "precious")
    make(empty_run, "one")
    make(empty_run, "two")

    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"
    assert RunDirectory(empty_run.path).artifact("train", "curves.png").read_text() == "two"


def test_names_in_its_record_reach_nothing_outside(empty_run: RunDirectory, tmp_path: Path) -> None:
    make(empty_run, "one")
    (tmp_path / "precious").write_text("one")
    record = empty_run.path / FOLDER / "train/.segpipe-made"
    record.write_text(record.read_text().replace("curves.png", "../../../precious"))
    make(empty_run, "two")

    assert (tmp_path / "precious").read_text() == "one"


def test_a_damaged_picture_is_not_copied(empty_run: RunDirectory) -> None:
    make(empty_run, "one")
    run = RunDirectory(empty_run.path)
    run.artifact("train", "curves.png").write_text("damaged")
    shutil.rmtree(run.path / FOLDER)
    with run.step("export", {}, {}) as step:
        step.path("model.onnx").write_text("graph")

    assert shown(run) == {}


def test_what_looks_after_a_run_passes_over_it(run_copy: Path, tmp_path: Path) -> None:
    run = RunDirectory(run_copy)
    checked = verify(run)[0]
    with run.step("train", run.record("train").inputs, run.record("train").params) as step:
        assert not step.stale
    (run_copy / FOLDER / "train/curves.png").write_text("drawn on")

    assert verify(run) == (checked, [])
    assert {line.state for line in run_status(run)} == {"fresh"}
    assert not (write_bundle(run, tmp_path / "bundle") / FOLDER).exists()


def test_a_run_of_an_old_version_gets_one_with_its_next_command(tmp_path: Path) -> None:
    run = RunDirectory(unpack("run", tmp_path))
    with run.step("train", run.record("train").inputs, run.record("train").params) as step:
        assert not step.stale

    assert (run.path / FOLDER / "train/curves.png").is_file()
    assert (run.path / FOLDER / "validate/gate.html").is_file()
