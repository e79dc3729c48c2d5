"""A kill at any moment leaves the old state or the new one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.latest import FOLDER
from segpipe.rundir.verify import verify
from tests.children import child

KILLS = 100


def expected(stage: str, generation: int) -> bytes:
    """What the harness writes; some files are large enough for a kill to land inside a write."""
    return f"{stage} {generation} ".encode() * (50_000 if stage == "train" else 500)


class Harness:
    """Processes that commit chained steps, forked from one that has imported what they need and opened nothing."""

    def __init__(self, server: "subprocess.Popen[str]") -> None:
        assert server.stdin is not None
        assert server.stdout is not None
        self._orders, self._answers = server.stdin, server.stdout

    def start(self, path: Path, generation: int, once: bool = False, die_at: int = 0) -> int:
        """The process that has begun to work."""
        self._orders.write(json.dumps([str(path), generation, once, die_at]) + "\n")
        self._orders.flush()
        word, process = self._answers.readline().split()
        assert word == "working"
        return int(process)

    def exit_code(self) -> int:
        """Of the process that was started last, once it has ended."""
        return int(self._answers.readline())


@pytest.fixture(scope="module")
def harness() -> Iterator[Harness]:
    with child(sys.executable, "-m", "tests.kill_harness", stdin=subprocess.PIPE, stderr=None) as server:
        yield Harness(server)


def assert_whole(path: Path) -> int:
    """The run is undamaged, and each stage's file is one that some generation really wrote. Returns train's."""
    run = RunDirectory(path)
    _, findings = verify(run)
    assert not [finding for finding in findings if finding.is_damage]
    for stage in run.manifest.stages:
        data = run.artifact_bytes(stage, "out.bin")
        assert data == expected(stage, int(data.split()[1]))
    return int(run.artifact_bytes("train", "out.bin").split()[1]) if "train" in run.manifest.stages else 0


def test_random_kills(harness: Harness, tmp_path: Path) -> None:
    """SIGKILL at random moments of real steps; every time the next process goes on from there."""
    path = RunDirectory.create(tmp_path / "run").path
    rng = random.Random(1)
    unfinished = advanced = generation = 0
    longest_s = 0.08  # follows how busy the machine is: about half of the processes get as far as a commit
    for _ in range(KILLS):
        process = harness.start(path, generation + 1)
        time.sleep(rng.uniform(0, longest_s))
        os.kill(process, signal.SIGKILL)
        assert harness.exit_code() == -signal.SIGKILL
        unfinished += any(finding.state == "work in progress" for finding in verify(RunDirectory(path))[1])
        before, generation = generation, max(generation, assert_whole(path))
        advanced += generation > before
        longest_s *= 0.8 if generation > before else 1.25

    assert unfinished >= 10, "the kills must land inside steps, or this proves nothing"
    assert advanced >= 10, "and the steps must be able to finish between kills"
    harness.start(path, generation + 1, once=True)
    assert harness.exit_code() == 0
    assert assert_whole(path) == generation + 1
    assert verify(RunDirectory(path))[1] == []


def test_a_kill_before_every_single_file_operation(harness: Harness, tmp_path: Path) -> None:
    """The child kills itself before its n-th file operation, for every n that a whole pass has."""
    operation, survived = 0, False
    while not survived:
        operation += 1
        path = RunDirectory.create(tmp_path / f"run{operation}").path
        for generation in (1, 2):
            run_harness_to_end(path, generation)
        harness.start(path, 3, once=True, die_at=operation)
        code = harness.exit_code()
        survived = code == 0
        assert survived or code == -signal.SIGKILL
        assert assert_whole(path) in (2, 3)
        run_harness_to_end(path, 3)
        assert assert_whole(path) == 3
        assert verify(RunDirectory(path))[1] == []
        assert (path / FOLDER / "export" / "picture.png").read_bytes() == b"export 3"
        assert not list(path.rglob(".*tmp"))

    assert operation > 30, "a pass has dozens of file operations"


def run_harness_to_end(path: Path, generation: int) -> None:
    """The same steps in this process, unkilled."""
    from tests.kill_harness import work

    work(path, generation)
    assert os.path.lexists(path / "manifest.json")
