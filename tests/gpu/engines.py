"""The backends that tests on a GPU open, and what each of them opens."""

from collections.abc import Callable
from functools import cache

import pytest

from segpipe.contract.schema import Contract
from segpipe.runtime import trt
from segpipe.runtime.backends import load_opener
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.trt import Flavour, is_installed
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from tests.frame_cases import HALF_MARGIN, MASK, assert_equal, contract_of, noise
from tests.host_driver import driver
from tests.host_engine import conv_graph

Open = Callable[..., GpuBackend]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
NAMES = ("host",) if driver.is_here() else (*FLAVOURS, "onnxruntime-cuda")
LARGEST = 4
OPEN_SIDES = (16, 64)
"""Smallest and largest side of engines for contracts that leave it open."""


CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
SIZES = [(40, 60), (80, 20), (60, 40), (20, 80)]


def check(backend: GpuBackend, rounds: int = 3) -> None:
    """Frames of several sizes: run, captured, replayed."""
    for seed in range(rounds):
        for size in SIZES:
            frame = noise(CONTRACT, *size, seed)
            assert_equal(backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame, HALF_MARGIN)


def ranges_of(contract: Contract, batches: tuple[tuple[int, int], ...]) -> tuple[ShapeRange, ...]:
    """One range of shapes for each range of batches."""
    low, high = (contract.network_size or (side, side) for side in OPEN_SIDES)
    return tuple(
        ShapeRange(_shape(contract, first, low), _shape(contract, first, low), _shape(contract, last, high))
        for first, last in batches
    )


@cache
def artifact_of(name: str, graph: bytes, contract: Contract, ranges: tuple[ShapeRange, ...]) -> bytes:
    """What the backend opens; skips where a flavour of TensorRT is not installed."""
    flavour = flavour_of(name)
    if flavour is None:
        return graph
    return build_engine(flavour, BuildRequest(graph, contract.input_name, ranges)).plan


def flavour_of(name: str) -> Flavour | None:
    """The flavour of TensorRT behind a backend, installed."""
    flavour = next((flavour for flavour in FLAVOURS if flavour == name), None)
    if flavour is not None and not is_installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    return flavour


def opened(name: str, artifact: bytes, contract: Contract, options: OpenOptions) -> GpuBackend:
    """A backend by name."""
    backend = load_opener(name)(artifact, contract, options)
    assert isinstance(backend, GpuBackend)
    return backend


def is_listed(name: str, device: Device) -> bool:
    """Whether the flavour's documentation names this GPU's compute capability; on others it may run or refuse."""
    capability = "SM{}{}".format(*device.capability)
    return name != "tensorrt-rtx" or hasattr(trt.load("tensorrt-rtx").ComputeCapability, capability)


def _shape(contract: Contract, batch: int, size: tuple[int, int]) -> tuple[int, ...]:
    nhwc = contract.input_layout == "nhwc"
    return (batch, *size, contract.channels) if nhwc else (batch, contract.channels, *size)
