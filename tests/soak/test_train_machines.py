"""Two launchers of torchrun, as on two machines, train what one launcher with two processes trains."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from segpipe.rundir.directory import RunDirectory
from tests.children import SEGPIPE, child, wait_until
from tests.tiny import TOML

pytestmark = pytest.mark.soak
WEIGHTS = "model.safetensors"
ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo", "TORCHELASTIC_ERROR_FILE": ""}
LONG = 12
"""Epochs: enough that a kill comes before the last."""


def prepared(folder: Path, epochs: int) -> Path:
    folder.mkdir()
    (folder / "segpipe.toml").write_text(TOML.replace("epochs = 3", f"epochs = {epochs}\ntensorboard = false"))
    return folder


def launched(ending: ExitStack, run: Path, machines: int) -> "list[subprocess.Popen[str]]":
    """What is typed on each machine; two processes in all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    each = 2 // machines
    found = []
    for number in range(machines):
        launcher = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={machines}", f"--nproc-per-node={each}"]
        where = [f"--node-rank={number}", "--master-addr=127.0.0.1", f"--master-port={port}", "--no-python"]
        settings = ["--set", f"train.nodes={machines}", "--set", f"train.devices={each}"]
        command = [*launcher, *where, *SEGPIPE, "train", str(run), *settings]
        found.append(ending.enter_context(child(*command, env=ON_CPU)))
    return found


def _below(process: int) -> list[int]:
    """Its children, whose sessions are their own."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def trained(run: Path, machines: int) -> bytes:
    with ExitStack() as ending:
        for process in launched(ending, run, machines):
            _, err = process.communicate()
            assert process.returncode == 0, err[-3000:]
    return RunDirectory(run).artifact_bytes("train", WEIGHTS)


def test_two_machines_train_the_network_of_two_processes_byte_for_byte(tmp_path: Path) -> None:
    one, two = (prepared(tmp_path / f"{machines}", 3) for machines in (1, 2))

    assert trained(one, 1) == trained(two, 2)
    records = [RunDirectory(run).record("train") for run in (one, two)]
    assert records[0].key == records[1].key


def test_a_training_that_lost_a_machine_goes_on_after_the_same_commands(tmp_path: Path) -> None:
    whole, broken = (prepared(tmp_path / name, LONG) for name in ("whole", "broken"))

    with ExitStack() as ending:
        first, second = launched(ending, broken, 2)
        wait_until(lambda: bool([*broken.glob("train/*.partial/**/epoch-*.ckpt")]), first)
        for process in (*_below(second.pid), second.pid):
            os.kill(process, signal.SIGKILL)
        first.communicate()

    assert first.returncode != 0
    assert trained(broken, 2) == trained(whole, 2)
