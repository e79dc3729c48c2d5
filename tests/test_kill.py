"""A kill at any moment leaves the old state or the new one."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import verify
from tests.children import PATIENCE_S, child

KILLS = 100
_HARNESS = Path(__file__).with_name("kill_harness.py")


def expected(stage: str, generation: int) -> bytes:
    """What the harness writes; some files are large enough for a kill to land inside a write."""
    return f"{stage} {generation} ".encode() * (50_000 if stage == "train" else 500)


def harness(path: Path, *arguments: str) -> "AbstractContextManager[subprocess.Popen[str]]":
    """A child that commits chained steps, in a fresh process."""
    return child(sys.executable, str(_HARNESS), str(path), *arguments)


def assert_whole(path: Path) -> int:
    """The run is undamaged, and each stage's file is one that some generation really wrote. Returns train's."""
    run = RunDirectory(path)
    _, findings = verify(run)
    assert not [finding for finding in findings if finding.is_damage]
    for stage in run.manifest.stages:
        data = run.artifact_bytes(stage, "out.bin")
        assert data == expected(stage, int(data.split()[1]))
    return int(run.artifact_bytes("train", "out.bin").split()[1]) if "train" in run.manifest.stages else 0


def test_random_kills(tmp_path: Path) -> None:
    """SIGKILL at random moments of real steps; every time the next process goes on from there."""
    path = RunDirectory.create(tmp_path / "run").path
    rng = random.Random(1)
    unfinished = advanced = generation = 0
    for _ in range(KILLS):
        with harness(path, str(generation + 1)) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "working\n"
            time.sleep(rng.uniform(0, 0.08))
            process.send_signal(signal.SIGKILL)
        unfinished += any(finding.state == "work in progress" for finding in verify(RunDirectory(path))[1])
        before, generation = generation, max(generation, assert_whole(path))
        advanced += generation > before

    assert unfinished >= 10, "the kills must land inside steps, or this proves nothing"
    assert advanced >= 10, "and the steps must be able to finish between kills"
    with harness(path, str(generation + 1), "--once") as finish:
        _, errors = finish.communicate(timeout=PATIENCE_S)
    assert finish.returncode == 0, errors
    assert assert_whole(path) == generation + 1
    assert verify(RunDirectory(path))[1] == []


def test_a_kill_before_every_single_file_operation(tmp_path: Path) -> None:
    """The child kills itself before its n-th file operation, for every n that a whole pass has."""
    operation, survived = 0, False
    while not survived:
        operation += 1
        path = RunDirectory.create(tmp_path / f"run{operation}").path
        for generation in (1, 2):
            run_harness_to_end(path, generation)
        with harness(path, "3", "--once", "--die-at", str(operation)) as process:
            _, errors = process.communicate(timeout=PATIENCE_S)
        survived = process.returncode == 0
        assert survived or process.returncode == -signal.SIGKILL, errors
        assert assert_whole(path) in (2, 3)
        run_harness_to_end(path, 3)
        assert assert_whole(path) == 3
        assert verify(RunDirectory(path))[1] == []
        assert not list(path.rglob(".*.tmp"))

    assert operation > 30, "a pass has dozens of file operations"


def run_harness_to_end(path: Path, generation: int) -> None:
    """The same steps in this process, unkilled."""
    from tests.kill_harness import work

    work(path, generation)
    assert os.path.lexists(path / "manifest.json")
