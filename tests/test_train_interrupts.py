"""Ctrl-C and errors in loader workers reach the command line as what they are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segpipe.errors import DataError
from stages.config.root import TrainConfig
from stages.train.dataset import frame_loader, training_loader
from tests.children import PATIENCE_S, SEGPIPE, child, wait_until
from tests.tiny import TOML, contract_fields, write_tiny


class Torn:
    """A split whose second frame cannot be read."""

    def __len__(self) -> int:
        return 4

    def name(self, index: int) -> str:
        return str(index)

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 1:
            raise DataError("frame 1 is torn", hint="write it again")
        return np.zeros((32, 48, 3), np.uint8), np.zeros((32, 48), np.uint8)


class Threads(Torn):
    """Frames that say how many threads OpenCV has where they are read."""

    def sample(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((1, 1, 3), cv2.getNumThreads(), np.uint8), np.zeros((1, 1), np.uint8)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.soak), 2])
def test_ctrl_c_ends_training_with_130_and_what_to_do_next(workers: int, tmp_path: Path) -> None:
    """A terminal sends it to every process of the group, loader workers too."""
    toml = TOML.replace("epochs = 3", "epochs = 5000").replace("workers = 0", f"workers = {workers}")
    (write_tiny(tmp_path) / "segpipe.toml").write_text(toml)
    with child(*SEGPIPE, "run", str(tmp_path), env={"CUDA_VISIBLE_DEVICES": ""}) as process:
        wait_until(lambda: bool(list(tmp_path.glob("train/*.partial/resume/epoch-*.ckpt"))), process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted; the same command goes on from here"
    assert "Traceback" not in errors


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["training", "frames"])
def test_a_workers_error_keeps_its_message_and_hint(kind: str, workers: int) -> None:
    from segpipe.contract.schema import Contract

    config = TrainConfig(workers=workers, batch_size=4)
    contract = Contract(**contract_fields())
    loader = frame_loader(Torn(), workers) if kind == "frames" else training_loader(Torn(), contract, config, 0)

    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value) == "frame 1 is torn. write it again"


def test_only_workers_take_opencvs_threads_away() -> None:
    fresh = subprocess.run(
        [sys.executable, "-c", "import cv2; print(cv2.getNumThreads())"],
        capture_output=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    read = {int(frame[0, 0, 0]) for frame, _, _ in frame_loader(Threads(), 1)}

    assert read == {1}, "OpenCV calls none one"
    assert cv2.getNumThreads() == int(fresh.stdout), "this process has imported all that training does"
