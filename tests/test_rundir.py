"""The run directory: freshness, commits, what is vouched for, and every way it can be broken."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segpipe.errors import (
    ArtifactDamagedError,
    ArtifactMissingError,
    ContractError,
    ManifestError,
    NotARunError,
    RunLockedError,
    StorageError,
)
from segpipe.rundir import RunDirectory
from segpipe.verify import Finding, verify

A, B = "a" * 64, "b" * 64


def make(run: RunDirectory, content: str = "one", data: str = A, stage: str = "train") -> bool:
    """Run a step that writes one file; whether it had work to do."""
    with run.step(stage, {"data": data}, {"content": content}) as step:
        if step.stale:
            step.path("model.bin").write_text(content)
        return step.stale


def test_a_step_runs_once_and_is_then_fresh(empty_run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = make(empty_run), make(empty_run)

    assert (first, second) == (True, False)
    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    assert [record.message for record in caplog.records] == ["train: not run yet", "train: fresh, nothing to do"]


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
        step.scratch("resume/epoch-1").write_text("half")
        raise RuntimeError("boom")

    assert empty_run.artifact("train", "model.bin").read_text() == "one"
    with pytest.raises(RuntimeError, match="again"), empty_run.step("train", {"data": B}, {}) as step:
        assert step.scratch("resume/epoch-1").read_text() == "half"
        raise RuntimeError("again")


def test_the_commit_drops_scratch_and_superseded_folders(empty_run: RunDirectory) -> None:
    make(empty_run)
    with empty_run.step("train", {"data": B}, {}) as step:
        step.scratch("resume/epoch-1").write_text("half")
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
        for ask in (step.path, step.scratch):
            with pytest.raises(RuntimeError, match="stage 'train' is fresh"):
                ask("model.bin")
    assert not list(empty_run.path.glob("train/*.partial"))


def test_temporary_files_of_dead_processes_are_swept(empty_run: RunDirectory) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = empty_run.path / f".manifest.json.{dead.pid}.tmp"
    others = [empty_run.path / name for name in (f".report.html.{os.getppid()}.tmp", ".notes.tmp", "a.1.tmp")]
    for path in (left, *others):
        path.touch()
    make(empty_run)

    assert not left.exists()
    assert all(path.exists() for path in others)


def test_artifacts_name_the_command_that_makes_them(empty_run: RunDirectory) -> None:
    with pytest.raises(ArtifactMissingError, match=r"stage 'train' has not run.*segpipe run .* --until train"):
        empty_run.artifact("train", "model.bin")


def test_one_changed_byte_is_refused(empty_run: RunDirectory) -> None:
    make(empty_run)
    path = empty_run.artifact("train", "model.bin")
    path.write_text("onf")

    for read in (empty_run.artifact, empty_run.artifact_bytes):
        with pytest.raises(ArtifactDamagedError, match=r"was changed after it was made.*make it again"):
            read("train", "model.bin")
    assert verify(empty_run)[1] == [Finding(path.relative_to(empty_run.path).as_posix(), "damaged")]


def test_a_read_that_the_system_refuses_is_explained(empty_run: RunDirectory) -> None:
    make(empty_run)
    (empty_run.path / "config.json").mkdir()
    path = empty_run.artifact("train", "model.bin")
    path.unlink()
    path.symlink_to(Path("/proc/self/mem"))  # a regular file whose first page cannot be read

    with pytest.raises(StorageError, match=r"cannot use .*config\.json: Is a directory"):
        empty_run.config()
    for read in (lambda: empty_run.artifact_bytes("train", "model.bin"), lambda: verify(empty_run)):
        with pytest.raises(StorageError, match=r"cannot use .*model\.bin: Input/output error.*fault"):
            read()


def test_a_missing_file_is_named(empty_run: RunDirectory) -> None:
    make(empty_run)
    path = empty_run.artifact("train", "model.bin")
    path.unlink()

    with pytest.raises(ArtifactMissingError, match=r"train/model.bin is not in"):
        empty_run.artifact("train", "model.bin")
    assert verify(empty_run)[1] == [Finding(path.relative_to(empty_run.path).as_posix(), "missing")]


def test_stages_that_build_on_others_must_share_the_contract(empty_run: RunDirectory) -> None:
    with empty_run.step("train", {"data": A}, {}) as step:
        step.contract_sha256 = A
        step.path("model.bin").write_text("one")

    inputs = [empty_run.artifact("train", "model.bin")]
    with (
        pytest.raises(ContractError, match="was made for contract bbbbbbbbbbbb"),
        empty_run.step("export", inputs, {}) as step,
    ):
        step.contract_sha256 = B
        step.path("model.onnx").write_text("graph")
    assert "export" not in empty_run.manifest.stages


def test_a_folder_named_like_an_outside_input_is_no_stage(empty_run: RunDirectory) -> None:
    (empty_run.path / "data").mkdir()
    for data, contract in ((A, A), (B, B)):
        with empty_run.step("train", {"data": data}, {}) as step:
            step.contract_sha256 = contract
            step.path("model.bin").write_text("one")

    assert empty_run.manifest.contract_sha256 == B


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"schema": 1, "stages": {"tr', "is not JSON .*cut off"),
        ("no json at all", "is not JSON"),
        ("", "is not JSON"),
        ('{"schema": 99}', "has schema 99, this segpipe reads up to 1.*upgrade"),
        ('{"schema": 1, "stages": {"train": {}}}', "is not a manifest: stages.train.key"),
        ("[1, 2]", "is not a manifest"),
    ],
)
def test_a_broken_manifest_is_told_in_one_line(empty_run: RunDirectory, text: str, said: str) -> None:
    make(empty_run)
    (empty_run.path / "manifest.json").write_text(text)

    with pytest.raises(ManifestError, match=said) as caught:
        RunDirectory(empty_run.path)
    assert "\n" not in str(caught.value)
    assert (empty_run.path / "train").is_dir(), "nothing is lost"


@pytest.mark.parametrize("folder", ["/etc", "../other/0123456789ab", "train/../../0123456789ab", "train", ""])
def test_a_manifest_names_no_folder_outside_its_run(empty_run: RunDirectory, folder: str) -> None:
    make(empty_run)
    content = json.loads((empty_run.path / "manifest.json").read_text())
    content["stages"]["train"]["path"] = folder
    (empty_run.path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(ManifestError, match=r"is not a manifest: stages\.train\.path"):
        RunDirectory(empty_run.path)


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.bin", "pictures/../../../x", ""])
def test_a_manifest_names_no_file_outside_its_run(empty_run: RunDirectory, name: str) -> None:
    make(empty_run)
    content = json.loads((empty_run.path / "manifest.json").read_text())
    outputs = content["stages"]["train"]["outputs"]
    outputs[name] = outputs.pop("model.bin")
    (empty_run.path / "manifest.json").write_text(json.dumps(content))

    with pytest.raises(ManifestError, match="does not lie inside the run"):
        RunDirectory(empty_run.path)


def test_a_directory_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(NotARunError, match=r"is no run directory.*segpipe new"):
        RunDirectory(tmp_path)
    with pytest.raises(NotARunError):
        RunDirectory(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotARunError):
        RunDirectory.create(tmp_path / "file")


def test_two_writers_are_refused_with_the_holders_number(empty_run: RunDirectory) -> None:
    other = RunDirectory(empty_run.path)

    with empty_run.writing(), pytest.raises(RunLockedError, match=rf"process {os.getpid()}\)"):
        make(other)
    assert make(other)


def test_a_reader_needs_no_lock(empty_run: RunDirectory) -> None:
    make(empty_run)

    with empty_run.writing():
        assert RunDirectory(empty_run.path).artifact("train", "model.bin").read_text() == "one"


def test_a_reader_follows_what_another_process_commits(empty_run: RunDirectory) -> None:
    make(empty_run)
    readers = [RunDirectory(empty_run.path) for _ in range(3)]
    make(empty_run, "two")

    assert readers[0].artifact("train", "model.bin").read_text() == "two"
    assert readers[1].artifact_bytes("train", "model.bin") == b"two"
    assert verify(readers[2]) == (1, [])


def test_a_dead_process_leaves_no_lock(empty_run: RunDirectory) -> None:
    script = f"""
        import os, signal
        from pathlib import Path
        from segpipe.rundir import RunDirectory
        with RunDirectory(Path({str(empty_run.path)!r})).writing():
            os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)

    assert died.returncode == -9
    assert (empty_run.path / ".lock").read_text().strip() != str(os.getpid())
    assert make(empty_run)


def test_a_forked_worker_that_outlives_its_parent_keeps_no_lock(empty_run: RunDirectory) -> None:
    script = f"""
        import os, signal, time
        from pathlib import Path
        from segpipe.rundir import RunDirectory
        with RunDirectory(Path({str(empty_run.path)!r})).writing():
            ready, told = os.pipe()
            worker = os.fork()
            if worker == 0:
                os.write(told, b"x")
                os.close(1)
                time.sleep(60)
            os.read(ready, 1)
            print(worker, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, check=False)
    worker = int(died.stdout)
    try:
        os.kill(worker, 0)  # it is still there

        assert make(empty_run)
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_closes_no_other_file(empty_run: RunDirectory) -> None:
    script = f"""
        import os
        from pathlib import Path
        from segpipe.rundir import RunDirectory
        with RunDirectory(Path({str(empty_run.path)!r})).writing():
            child = os.fork()
            if child == 0:
                reused = os.open("/dev/null", os.O_RDONLY)
            else:
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.fstat(reused) if child == 0 else exit(code)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)

    assert ended.returncode == 0


def test_a_full_disk_leaves_the_old_result(empty_run: RunDirectory) -> None:
    """The operating system's own limit on file sizes, in a child: EFBIG is raised where ENOSPC would be."""
    make(empty_run)
    script = f"""
        import resource, sys
        from pathlib import Path
        from segpipe.errors import StorageError
        from segpipe.rundir import RunDirectory
        run = RunDirectory(Path({str(empty_run.path)!r}))
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with run.step("train", {{"data": "c"}}, {{}}) as step:
                step.path("model.bin").write_bytes(bytes(1 << 20))
        except StorageError as error:
            sys.exit(str(error))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1
    assert "cannot write" in result.stderr
    assert "run the same command again; nothing finished is lost" in result.stderr
    again = RunDirectory(empty_run.path)
    assert again.artifact("train", "model.bin").read_text() == "one"
    assert not any(finding.is_damage for finding in verify(again)[1])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_refusals_of_the_system_are_explained(empty_run: RunDirectory, code: int) -> None:
    with pytest.raises(StorageError, match=os.strerror(code)), empty_run.step("train", {}, {}):
        raise OSError(code, os.strerror(code))


def test_a_full_disk_while_the_manifest_is_written(empty_run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    make(empty_run)
    real = os.fsync

    def full(descriptor: int) -> None:
        if "manifest" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        make(empty_run, "two")
    monkeypatch.undo()

    again = RunDirectory(empty_run.path)
    assert again.artifact("train", "model.bin").read_text() == "one"
    assert make(again, "two")
    assert again.artifact("train", "model.bin").read_text() == "two"


@pytest.mark.skipif(os.getuid() != 0, reason="drops its user id, which only root can")
def test_a_directory_without_write_permission(empty_run: RunDirectory) -> None:
    make(empty_run)
    for path in (empty_run.path, *empty_run.path.parents):
        if path.stat().st_uid == 0 and "pytest" in str(path):
            path.chmod(0o755)
    script = f"""
        import os, sys
        from pathlib import Path
        from segpipe.errors import StorageError
        from segpipe.rundir import RunDirectory
        os.setuid(65534)
        run = RunDirectory(Path({str(empty_run.path)!r}))
        assert run.artifact("train", "model.bin").read_text() == "one"
        try:
            with run.step("train", {{"data": "c"}}, {{}}):
                pass
        except StorageError as error:
            sys.exit(str(error))
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
    )

    assert result.returncode == 1, result.stderr
    assert "Permission denied" in result.stderr
    assert "give this user write permission" in result.stderr


def test_the_manifest_holds_no_absolute_path(finished_run: Path) -> None:
    text = (finished_run / "manifest.json").read_text()

    assert str(finished_run.parent) not in text
    assert all(not record["path"].startswith("/") for record in json.loads(text)["stages"].values())
