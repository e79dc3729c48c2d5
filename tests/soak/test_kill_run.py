"""A whole run of all stages, killed at random moments and continued until it has been killed a hundred times."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.verify import verify
from stages.table import NAMES
from tests.children import SEGPIPE
from tests.tiny import write_tiny

KILLS = 100
REPRODUCIBLE = ("train", "export")  # engines are not: two builds of one graph differ


def start(path: Path) -> "subprocess.Popen[bytes]":
    """`segpipe run` with two loader workers, which outlive its kill for a moment."""
    command = [*SEGPIPE, "run", str(path), "--set", "train.workers=2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def hashes(path: Path) -> dict[str, str]:
    """The outputs that must not depend on kills."""
    stages = RunDirectory(path).manifest.stages
    return {f"{s}/{name}": output.sha256 for s in REPRODUCIBLE for name, output in stages[s].outputs.items()}


def assert_undamaged(path: Path) -> None:
    """Everything the manifest vouches for is whole, whatever else lies about."""
    if (path / "manifest.json").exists():
        assert not [finding for finding in verify(RunDirectory(path))[1] if finding.is_damage]


@pytest.mark.soak
def test_a_hundred_kills_change_nothing(tmp_path: Path) -> None:
    rng = random.Random(1)
    unkilled = write_tiny(tmp_path / "unkilled")
    began = time.monotonic()
    assert start(unkilled).wait() == 0
    seconds, wanted = time.monotonic() - began, hashes(unkilled)
    kills = finished = 0
    path = write_tiny(tmp_path / "run0")
    while kills < KILLS:
        process = start(path)
        try:
            code = process.wait(timeout=rng.uniform(0.2, 0.8) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert_undamaged(path)
            continue
        assert code == 0, "a run that was killed before must be able to go on"
        assert hashes(path) == wanted
        finished += 1
        path = write_tiny(tmp_path / f"run{finished}")

    assert start(path).wait() == 0
    assert hashes(path) == wanted
    assert set(RunDirectory(path).manifest.stages) == set(NAMES)
    print(f"{kills} kills, {finished + 1} runs finished with the same hashes")
