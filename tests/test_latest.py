"""RUN/latest holds copies of the pages and pictures of a run's newest stages, and nobody's file in it is lost."""

import shutil
from pathlib import Path

import pytest

from segpipe.bundle import write_bundle
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.latest import FOLDER
from segpipe.rundir.status import run_status
from segpipe.rundir.verify import verify
from stages.report import write_report
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
    return {path.name: path.read_text() for path in (run.path / FOLDER).iterdir() if not path.name.startswith(".")}


def test_pages_and_pictures_of_a_finished_run_have_plain_names(run_copy: Path) -> None:
    write_report(RunDirectory(run_copy))
    latest = run_copy / FOLDER

    for stage, name in [("train", "curves.png"), ("validate", "gate.html"), ("benchmark", "frames.png")]:
        made = RunDirectory(run_copy).artifact(stage, name)
        assert (latest / f"{stage}-{name}").read_bytes() == made.read_bytes()
    assert (latest / "report.html").read_bytes() == (run_copy / "report.html").read_bytes()
    assert {path.suffix for path in latest.glob("[!.]*")} == {".html", ".png"}
    assert not any(path.is_symlink() for path in latest.iterdir())


def test_a_stage_made_anew_replaces_its_pictures_and_removes_those_it_no_longer_leaves(empty_run: RunDirectory) -> None:
    make(empty_run, "one", best="b")
    before = shown(empty_run)
    make(empty_run, "two")

    assert before == {"train-curves.png": "one", "train-best.png": "b"}
    assert shown(empty_run) == {"train-curves.png": "two"}


def test_a_fresh_run_gets_back_what_was_deleted(empty_run: RunDirectory) -> None:
    make(empty_run, "one")
    shutil.rmtree(empty_run.path / FOLDER)
    make(empty_run, "one")

    assert shown(empty_run) == {"train-curves.png": "one"}


@pytest.mark.parametrize("name", ["train-curves.png", "train-best.png", "mine.txt"])
def test_what_somebody_wrote_there_is_kept_and_said_once(
    name: str, empty_run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    make(empty_run, "one", best="b")
    (empty_run.path / FOLDER / name).write_text("mine")
    caplog.set_level("INFO")
    make(empty_run, "two", best="c")
    make(empty_run, "two", best="c")
    said = [record for record in caplog.records if "is kept" in record.message]

    assert shown(empty_run)[name] == "mine"
    assert len(said) == (name != "mine.txt")


def test_a_copy_of_a_copy_under_another_name_is_kept(empty_run: RunDirectory) -> None:
    make(empty_run, "one")
    shutil.copy(empty_run.path / FOLDER / "train-curves.png", empty_run.path / FOLDER / "before.png")
    make(empty_run, "two")

    assert shown(empty_run) == {"train-curves.png": "two", "before.png": "one"}


def test_a_run_that_was_moved_or_zipped_goes_on_as_before(empty_run: RunDirectory, tmp_path: Path) -> None:
    make(empty_run, "one")
    shutil.make_archive(str(tmp_path / "sent"), "zip", empty_run.path)
    shutil.unpack_archive(tmp_path / "sent.zip", tmp_path / "received")
    received = RunDirectory(tmp_path / "received")

    assert shown(received) == {"train-curves.png": "one"}
    make(received, "two")
    assert shown(received) == {"train-curves.png": "two"}


@pytest.mark.parametrize("kind", ["link", "file", "links inside", "hashes of another"])
def test_nothing_outside_is_written_and_no_command_fails(kind: str, empty_run: RunDirectory, tmp_path: Path) -> None:
    folder, outside = empty_run.path / FOLDER, tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    if kind == "link":
        folder.symlink_to(outside)
    elif kind == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        place = ".segpipe-made" if kind == "hashes of another" else "train-curves.png"
        (folder / place).symlink_to(outside / "precious")
    make(empty_run, "one")
    make(empty_run, "two")

    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "mine"
    assert RunDirectory(empty_run.path).artifact("train", "curves.png").read_text() == "two"


def test_names_in_its_record_reach_nothing_outside(empty_run: RunDirectory, tmp_path: Path) -> None:
    make(empty_run, "one")
    (tmp_path / "precious").write_text("one")
    record = empty_run.path / FOLDER / ".segpipe-made"
    record.write_text(record.read_text().replace("train-curves.png", "../../precious"))
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
    write_report(run)
    (run_copy / FOLDER / "train-curves.png").write_text("drawn on")

    assert verify(run) == (checked, [])
    assert {line.state for line in run_status(run)} == {"fresh"}
    assert not (write_bundle(run, tmp_path / "bundle") / FOLDER).exists()


def test_a_report_of_an_old_run_gives_it_one(tmp_path: Path) -> None:
    run = RunDirectory(unpack("run", tmp_path))
    write_report(run)

    assert {"report.html", "train-curves.png", "validate-gate.html"} <= shown_names(run)


def shown_names(run: RunDirectory) -> set[str]:
    return {path.name for path in (run.path / FOLDER).iterdir()}


def test_a_bundle_gets_none(tmp_path: Path) -> None:
    bundle = unpack("bundle", tmp_path)
    write_report(RunDirectory(bundle))

    assert not (bundle / FOLDER).exists()
