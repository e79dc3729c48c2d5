"""What a command advises can be followed: the words of errors about runs and bundles that are not what it needs."""

from pathlib import Path

import pytest

from segpipe import testing
from segpipe.console import frame_progress
from segpipe.errors import GateFailedError
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.duel import DuelResult, require_within_margin
from stages.benchmark.table import _absent
from stages.results.benchmark import Entry
from stages.results.figures import ValidateFigures
from tests.calling import call
from tests.old_runs import unpack
from tests.tiny import write_tiny
from tests.using import make_video


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """What `bundle` writes of a run."""
    call("bundle", testing.make_run(tmp_path / "run"), "-o", tmp_path / "bundle")
    return tmp_path / "bundle"


def test_a_run_that_was_not_validated_is_run_until_it_is(tmp_path: Path) -> None:
    call("show", write_tiny(tmp_path / "run"))
    (tmp_path / "run/manifest.json").write_text('{"schema_version": 1, "stages": {}}')

    code, _, err = call("bundle", tmp_path / "run", "-o", tmp_path / "out")

    assert code == 1
    assert err.rstrip().endswith(f"was not validated. run `segpipe run {tmp_path / 'run'} --until validate`")


@pytest.mark.parametrize("command", ["run", "evaluate", "data check"])
def test_what_needs_a_config_says_that_a_bundle_has_none(bundle: Path, command: str) -> None:
    code, _, err = call(*command.split(), bundle)

    assert code == 1
    assert (
        f"{bundle} is a bundle, which has no config (segpipe.toml). give the run that the bundle was made from" in err
    )
    assert "--hop" not in err


def test_a_bundle_is_judged_hop_by_hop(bundle: Path) -> None:
    code, _, err = call("validate", bundle)

    assert code == 1
    assert f"`segpipe validate {bundle} --hop engine`" in err


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("folder", "edit [data] root and classes in {run}/segpipe.toml, then segpipe data check {run}"),
        ("camvid", "edit [data] root in {run}/segpipe.toml, then segpipe data check {run}"),
        ("demo", "segpipe run {run}"),
    ],
)
def test_a_new_run_says_what_to_edit_and_what_comes_next(tmp_path: Path, template: str, said: str) -> None:
    run = tmp_path / "run"

    code, out, err = call("new", run, "--template", template)

    assert (code, out, err) == (0, f"{run}/segpipe.toml\n", f"next        {said.format(run=run)}\n")


def test_a_run_with_nothing_finished_says_so_and_what_is_in_progress(tmp_path: Path) -> None:
    run = write_tiny(tmp_path / "run")
    RunDirectory.create(run)
    (run / "train/0123456789ab.partial").mkdir(parents=True)
    nothing = call("show", run)
    (run / "train/0123456789ab.partial/checkpoint").write_text("half")
    begun = call("show", run)

    assert nothing == (0, "", f"nothing has finished; run `segpipe run {run}`\n")
    assert begun[2] == f"nothing has finished: train is in progress; run `segpipe run {run}`\n"


def test_a_sound_run_is_verified_in_one_line(tmp_path: Path) -> None:
    code, out, _ = call("verify", testing.make_run(tmp_path / "run"))

    assert code == 0
    assert out.endswith(" files checked, all as recorded\n")
    assert out.count("\n") == 1


def test_where_a_videos_results_are_is_said(tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 2)
    out = tmp_path / "out"

    _, stdout, err = call("predict", testing.make_run(tmp_path / "run"), tmp_path / "clip.mp4", "-o", out)

    assert stdout == f"{out}\n"
    assert f"clip.mp4: masks in {out}/masks/clip, frames beside overlays in {out}/videos/clip.mp4" in err


def test_what_has_one_reason_is_not_measured_in_one_line() -> None:
    reason = "there is no NVIDIA driver. backends on a GPU need one"
    entries = [Entry(name=name, kind="end to end", ours=True, reason=reason) for name in "abcd"]
    alone = Entry(name="e", kind="end to end", ours=False, reason="it is not installed")

    lines = list(_absent([*entries, alone]))

    assert lines[0].startswith("not measured: 4 contestants (")
    assert lines[0].endswith(": there is no NVIDIA driver")
    assert lines[1:] == ["not measured: e: it is not installed"]


def test_a_slower_run_is_looked_into_with_what_there_is() -> None:
    slower = DuelResult(1.2, 1.1, 1.3, rounds=100, a_ms=1.0, b_ms=1.2, verdict="slower")

    with pytest.raises(GateFailedError, match=r"`segpipe benchmark RUN` on each shows the network alone"):
        require_within_margin(slower, 0.05)


@pytest.mark.parametrize(("unjudged", "said"), [(["a"], "1 limit not judged"), (["a", "b"], "2 limits not judged")])
def test_one_limit_is_one_limit(unjudged: list[str], said: str) -> None:
    judged = ValidateFigures(failed=(), agreement={"onnx": 1.0}, unjudged={"onnx": tuple(unjudged)})

    assert said in judged.headline()


@pytest.mark.parametrize("hop", ["onnx", "nonsense"])
def test_a_hop_that_there_is_not_lists_those_that_there_are(hop: str, tmp_path: Path) -> None:
    code, _, err = call("validate", unpack("run", tmp_path), "--hop", hop)

    assert code == 1
    assert f"there is no hop '{hop}'. name one of: onnxruntime-cuda-fp16, " in err
    assert "onnxruntime-cpu" in err
    assert err.rstrip().endswith("engine")


def test_a_bundle_of_a_bundle_without_a_reference_names_its_run(tmp_path: Path) -> None:
    old = unpack("bundle", tmp_path)

    _, _, err = call("bundle", old, "-o", tmp_path / "again")

    assert "make the bundle with `segpipe bundle RUN -o DIR --with-reference`" in err


@pytest.mark.parametrize("command", ["predict", "validate", "bundle", "show", "verify"])
def test_what_takes_a_bundle_says_so(command: str) -> None:
    assert "or a bundle" in " ".join(call(command, "--help")[1].split())


def test_verdicts_of_what_a_bundle_does_not_hold_are_not_shown(tmp_path: Path) -> None:
    code, out, _ = call("show", unpack("bundle", tmp_path))

    assert code == 0
    assert "export/model.onnx on onnxruntime-cpu" in out
    assert "model.fp16.onnx" not in out


def test_skipped_frames_and_less_than_a_second_have_no_speed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with frame_progress(2) as tick:
        tick(2)
    assert "frames/s" not in capsys.readouterr().err
    monkeypatch.setattr("rich.progress.Task.elapsed", 4.0)
    with frame_progress(1000) as tick:
        tick(992, skipped=True)
        tick(8)

    assert "2.0 frames/s" in capsys.readouterr().err
