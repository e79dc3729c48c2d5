"""Ctrl-C during training: one line, exit code 130, and the same command goes on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import write_tiny


@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_training_with_130_and_one_line(tmp_path: Path, workers: int) -> None:
    run = write_tiny(tmp_path / "run")
    command = [sys.executable, "-c", "from segpipe.cli import main; main()", "train", str(run)]
    command += ["--set", "train.epochs=500", "--set", f"train.workers={workers}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list(run.glob("train/*.partial/resume/*.ckpt")) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in said
