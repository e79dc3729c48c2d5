"""A run directory between processes and on bad disks: locks, readers, full and read-only file systems."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segpipe.errors import (
    RunLockedError,
    StorageError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import verify
from tests.test_rundir import make


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
        from segpipe.rundir.directory import RunDirectory
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
        from segpipe.rundir.directory import RunDirectory
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
        from segpipe.rundir.directory import RunDirectory
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
        from segpipe.rundir.directory import RunDirectory
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
        from segpipe.rundir.directory import RunDirectory
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
