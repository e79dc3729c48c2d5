"""Two processes train one network as one process does: the same losses, and every validation pixel counted once."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.config.losses import Loss
from stages.pipeline import Selection, run_stages
from stages.tasks.losses import Averaging, SegmentationLoss
from tests.children import PATIENCE_S, ROOT, SEGPIPE
from tests.tiny import TOML

LOSS_TOLERANCE = 1e-4  # two halves of a batch are summed in another order than the whole
PROCESSES = 2
CHANGES = {  # numbers of frames that no two processes can share evenly
    "train = 16": "train = 11",
    "val = 4": "val = 5",
    "options = { width = 4 }": 'name = "tests.test_train_processes:plain_network"',
    "epochs = 3": 'epochs = 2\nschedule = "constant"\nclass_weights = "median-frequency"\ntensorboard = false'
    '\nloss = [{ kind = "cross-entropy" }, { kind = "focal", weight = 9 }, { kind = "boundary" }]',
}


def plain_network(channels: int, classes: int) -> nn.Module:
    """Without batch normalisation, which looks at each process's part of a batch alone."""
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, classes, 1)
    )
    network.stride, network.size_multiple = 4, 4  # type: ignore[assignment]
    return network


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunDirectory]:
    """The same training by one process and by two."""
    return {count: RunDirectory(train(tmp_path_factory.mktemp(f"by{count}"), count)) for count in (1, PROCESSES)}


def train(path: Path, processes: int) -> Path:
    """`segpipe train`, started by torchrun when there are several processes."""
    toml = TOML
    for old, new in CHANGES.items():
        assert old in toml
        toml = toml.replace(old, new)
    (path / "segpipe.toml").write_text(toml)
    if processes == 1:
        run_stages(path, load_config(path), path, Selection(last="train"))
        return path
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    train = [*SEGPIPE, "train", str(path), "--set", f"train.devices={processes}"]
    command = [*launcher, "--master-addr=127.0.0.1", f"--master-port={port}", "--no-python", *train]
    finished = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return path


def test_the_validation_confusion_matrix_is_exactly_the_same(trained: dict[int, RunDirectory]) -> None:
    one, two = (json.loads(trained[n].artifact_bytes("train", "confusion.json")) for n in (1, PROCESSES))

    assert one["val"] == two["val"]
    assert sum(map(sum, one["val"])) > 0.8 * 5 * 48 * 80, "every frame is counted, and counted once"
    assert sum(map(sum, one["val"])) <= 5 * 48 * 80


def test_losses_of_the_same_global_batches_are_the_same(trained: dict[int, RunDirectory]) -> None:
    one, two = (
        [float(row["loss"]) for row in csv.DictReader(io.StringIO(run.artifact_bytes("train", "history.csv").decode()))]
        for run in (trained[1], trained[PROCESSES])
    )

    assert len(one) == len(two) == 2
    assert one == pytest.approx(two, abs=LOSS_TOLERANCE)


def test_only_the_first_process_writes(trained: dict[int, RunDirectory]) -> None:
    one, two = trained[1].record("train"), trained[PROCESSES].record("train")

    assert one.key == two.key, "how many devices train is no part of the key"
    assert set(one.outputs) == set(two.outputs)
    assert not list(trained[PROCESSES].path.glob("train/*.partial"))


@pytest.mark.parametrize("kind", ["cross-entropy", "focal", "boundary"])
def test_parts_of_a_batch_average_to_the_loss_of_the_whole(
    kind: Literal["cross-entropy", "focal", "boundary"],
) -> None:
    """Also when one part is mostly ignored, where a mean of means would be wrong."""
    torch.manual_seed(0)
    scores, labels = torch.randn(4, 3, 8, 8), torch.randint(0, 3, (4, 8, 8))
    labels[:2, 2:] = 255
    parts = [(scores[:2], labels[:2]), (scores[2:], labels[2:])]
    counts: list[Tensor] = []

    def alone(value: Tensor) -> Tensor:
        counts.append(value)
        return value

    def together(_: Tensor) -> Tensor:
        return torch.stack(counts[1:]).mean()

    whole = _loss(kind, alone)(scores, labels)
    for part in parts:
        _loss(kind, alone)(*part)
    mean = torch.stack([_loss(kind, together)(*part) for part in parts]).mean()

    assert float(mean) == pytest.approx(float(whole), rel=1e-5)


def _loss(kind: Literal["cross-entropy", "focal", "boundary"], averaging: Averaging) -> SegmentationLoss:
    term: Loss = TypeAdapter(Loss).validate_python({"kind": kind})
    return SegmentationLoss([term], 255, (1.0, 2.0, 3.0), averaging)
