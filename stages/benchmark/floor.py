"""The least a frame can cost: bytes that must move and operations that must be done, over rates measured here."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from segpipe.rundir.directory import RunDirectory
from stages.benchmark.contestants import Scene, network_input
from stages.benchmark.torch_peers import device
from stages.models import checkpoint
from stages.results.benchmark import Floor

_TRIES = 5  # the best of them: a rate is what the machine can do, not what it did while busy


def measure_floor(run: RunDirectory, scene: Scene) -> Floor:
    """For one frame of this network and size. Activations may stay in caches, so only what must cross is counted."""
    if "train" not in run.manifest.stages:
        raise NotImplementedError("an imported run holds no PyTorch network to count operations on")
    network = checkpoint.from_bytes(run.artifact_bytes("train", checkpoint.FILE_NAME)).network
    tensor = torch.from_numpy(network_input(scene.frames[0], scene.contract)).float()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        answer = network(tensor)
    outputs = sum(output.numel() for output in (answer if isinstance(answer, tuple) else (answer,)))
    gpu = device().type == "cuda"
    dtype = torch.float16 if gpu else torch.float32
    weights = sum(parameter.numel() for parameter in network.parameters())
    frame = scene.frames[0]
    moved = (weights + tensor.numel() + outputs) * dtype.itemsize + frame.nbytes + frame.shape[0] * frame.shape[1]
    bandwidth, rate = _bandwidth(gpu), _matrix_rate(dtype, 4096 if gpu else 1024)
    operations = int(counter.get_total_flops())
    return Floor(
        bytes=moved,
        operations=operations,
        bandwidth_bytes_per_second=round(bandwidth),
        operations_per_second=round(rate),
        precision=str(dtype).removeprefix("torch."),
        floor_ms=round(1e3 * max(moved / bandwidth, operations / rate), 4),
    )


def _bandwidth(gpu: bool) -> float:
    """Bytes a second through memory: a copy reads and writes."""
    source = torch.ones((256 if gpu else 64) << 20, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    return 2 * source.numel() / _best_seconds(lambda: target.copy_(source))


def _matrix_rate(dtype: torch.dtype, side: int) -> float:
    """Operations a second of a square matrix product."""
    left = torch.rand(side, side, device=device()).to(dtype)
    right = torch.rand(side, side, device=device()).to(dtype)
    return 2 * side**3 / _best_seconds(lambda: left @ right)


def _best_seconds(action: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_TRIES):
        _finish()
        start = time.perf_counter()
        action()
        _finish()
        best = min(best, time.perf_counter() - start)
    return best


def _finish() -> None:
    """Wait for the GPU, where there is one."""
    if device().type == "cuda":
        torch.cuda.synchronize()
