"""Pre and post kernels against the bytes they must move over the bandwidth measured in the same run."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from segpipe.contract.schema import Contract
from segpipe.runtime.cuda.compiling import compile_kernel
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.job import GpuJob, Tensors, TensorSpec, output_role
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.masks import Masks
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.cuda.plan import Plan
from segpipe.runtime.preprocess import normalisation
from segpipe.runtime.request import Outputs

_FRAME, _CANVAS, _STRIDE, _CLASSES = (1024, 2048), (512, 1024), 8, 19
_LAUNCHES, _ROUNDS = 96, 15
_COPY = 256 * 2**20
_SETS = 12  # of buffers, in turn: together larger than an L2 cache, or a kernel would find its input there

_CONTRACT = Contract(classes=tuple(f"class {n}" for n in range(_CLASSES)), network_size=_CANVAS, output_stride=_STRIDE)


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Microseconds of each kernel, its floor, and PyTorch's interpolate and argmax beside the post kernels."""
    device = open_device()
    code = "{}{}".format(*device.capability)
    with device.current():
        kernels = Kernels(device, {f"kernels.sm_{code}.cubin": compile_kernel(code)})
        found = _measure(device, kernels)
        kernels.close()
    yield found
    yield found | {"torch": _torch()}


def _measure(device: Device, kernels: Kernels) -> dict[str, Any]:
    stream = device.create_stream()
    one, two = device.allocate(_COPY), device.allocate(_COPY)
    copy_us = _microseconds(device, stream, lambda _: device.copy(two, one, _COPY, stream))
    bytes_per_us = 2 * _COPY / copy_us
    grid = tuple(side // _STRIDE for side in _CANVAS)
    scores, role = TensorSpec((1, _CLASSES, *grid), "float16"), output_role(_CONTRACT.output_name)
    tensors = Tensors(TensorSpec((1, 3, *_CANVAS), "float16"), {_CONTRACT.output_name: scores})
    plan = Plan(GpuJob(*_FRAME, 1, 1, False, Outputs()), _CONTRACT, tensors)
    sizes = plan.sizes()[0]
    plan.tables_address = _upload(device, plan.table_bytes(), stream)
    constants = _upload(device, np.concatenate(normalisation(_CONTRACT)).astype(np.float32).tobytes(), stream)
    memory = [{role: device.allocate(size) for role, size in sizes.items()} for _ in range(_SETS)]
    for buffers in memory:
        device.upload(buffers[role], _blobs(grid), stream)
    device.synchronize(stream)

    def pre(number: int) -> None:
        arguments, buffers = plan.pre_arguments(), memory[number % _SETS]
        arguments.source, arguments.target = buffers["frames"], buffers["input"]
        arguments.scale, arguments.shift = constants, constants + 12
        kernels.pre("uint8", "float16", 1, arguments, stream)

    def post(number: int) -> None:
        assert isinstance(plan.decoding, Masks)
        arguments, buffers = plan.decoding.arguments(plan.decoding_tables), memory[number % _SETS]
        arguments.scores, arguments.labels, arguments.mask = buffers[role], buffers["labels"], buffers["mask"]
        kernels.mask("float16", "uint8", 1, arguments, stream)

    found: dict[str, Any] = {"measured_bandwidth_gb_s": round(bytes_per_us / 1e3, 1)}
    for name, call, roles in (("pre", pre, ("frames", "input")), ("post", post, (role, "mask"))):
        taken, floor = _microseconds(device, stream, call), sum(sizes[role] for role in roles) / bytes_per_us
        found[name] = {"us": round(taken, 2), "floor_us": round(floor, 2), "over_floor": round(taken / floor, 2)}
    for pointer in (one, two, constants, plan.tables_address, *(p for buffers in memory for p in buffers.values())):
        device.free(pointer)
    device.destroy_stream(stream)
    return found


def _microseconds(device: Device, stream: int, call: Callable[[int], None]) -> float:
    """Median over replays of a graph of many calls: what one costs when Python has no part in it."""
    call(0)  # loads the kernel, which a capture may not
    device.synchronize(stream)
    device.begin_capture(stream)
    for number in range(_LAUNCHES):
        call(number)
    graph = device.end_capture(stream)
    assert graph, "the calls could not be captured"
    taken = []
    for _ in range(_ROUNDS + 3):
        started = time.perf_counter_ns()
        device.launch_graph(graph, stream)
        device.synchronize(stream)
        taken.append((time.perf_counter_ns() - started) / _LAUNCHES / 1e3)
    device.destroy_graph(graph)
    return float(np.median(taken[3:]))


def _torch() -> dict[str, Any]:
    """The usual way on the same GPU: interpolate to the frame's size, argmax."""
    import torch
    from torch.nn import functional

    scores = torch.randn(1, _CLASSES, _CANVAS[0] // _STRIDE, _CANVAS[1] // _STRIDE, device="cuda", dtype=torch.half)
    taken = []
    for _ in range(_ROUNDS + 3):
        torch.cuda.synchronize()
        started = time.perf_counter_ns()
        for _ in range(20):
            functional.interpolate(scores, _FRAME, mode="bilinear", align_corners=False).argmax(1).to(torch.uint8)
        torch.cuda.synchronize()
        taken.append((time.perf_counter_ns() - started) / 20 / 1e3)
    return {"interpolate_argmax_us": round(float(np.median(taken[3:])), 2)}


def _blobs(grid: tuple[int, ...]) -> Any:
    """Scores in patches, as trained networks give them: about a quarter of the cells lie on borders."""
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(_CLASSES, grid[0] // 8, grid[1] // 8))
    return coarse.repeat(8, 1).repeat(8, 2).astype(np.float16).reshape(-1).view(np.uint8)


def _upload(device: Device, data: bytes, stream: int) -> int:
    address = device.allocate(len(data))
    device.upload(address, np.frombuffer(data, np.uint8), stream)
    device.synchronize(stream)
    return address
