"""Every test below needs a GPU: without one it is skipped, or an error when SEGPIPE_REQUIRE_GPU=1 says there is one.

On the driver of host memory (see tests/test_host_driver.py) those run that do not ask for a `real_gpu`.
"""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from segpipe.contract.schema import Contract
from segpipe.errors import SegpipeError
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.compiling import compile_kernel
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.request import OpenOptions
from tests.gpu.engines import LARGEST, NAMES, Open, artifact_of, is_listed, opened, ranges_of
from tests.gpu_here import has_gpu
from tests.host_driver import driver

if driver.is_here():
    driver.library()
    collect_ignore = ["test_kernels.py"]  # nothing in it but the kernels, which tests/test_kernels_arithmetic.py tries
_MODULES = {"cuda-python": "cuda.bindings", "pycuda": "pycuda"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder carry the marker."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


def missing(reason: str) -> None:
    """Skip, or fail where a GPU is required."""
    if os.environ.get("SEGPIPE_REQUIRE_GPU") == "1":
        pytest.fail(f"SEGPIPE_REQUIRE_GPU=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(autouse=True, scope="session")
def _needs_gpu() -> None:
    if not has_gpu():
        missing("this machine has no NVIDIA GPU")


@pytest.fixture
def real_gpu() -> None:
    """For tests of what only a GPU has: time, its own libraries, PyTorch beside ours."""
    if driver.is_here():
        pytest.skip("needs a real GPU")


@pytest.fixture(params=["cuda-python", "pycuda"])
def device(request: pytest.FixtureRequest, _needs_gpu: None) -> Device:
    """The GPU, by each provider that is installed."""
    if importlib.util.find_spec(_MODULES[request.param].partition(".")[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    return open_device(0, request.param)


@pytest.fixture(scope="session")
def images(_needs_gpu: None) -> dict[str, bytes]:
    """Machine code for this GPU."""
    if driver.is_here():
        return {"kernels.ptx": b"the kernels of this driver are a library"}
    device = open_device(0, "cuda-python")
    return {"kernels.sm_{}{}.cubin".format(*device.capability): compile_kernel("{}{}".format(*device.capability))}


@pytest.fixture
def kernels(device: Device, images: dict[str, bytes]) -> Iterator[Kernels]:
    """The kernels, loaded."""
    with device.current():
        loaded = Kernels(device, images)
    yield loaded
    with device.current():
        loaded.close()


@pytest.fixture(params=NAMES)
def open_backend(request: pytest.FixtureRequest, device: Device, images: dict[str, bytes]) -> Open:
    """Opens a graph with one backend by one provider; `batches` are the ranges of an engine's profiles."""
    providers: dict[str, Literal["pycuda", "cuda-python"]] = {"pycuda": "pycuda", "cuda-python": "cuda-python"}

    def open_graph(
        graph: bytes, contract: Contract, batches: tuple[tuple[int, int], ...] = ((1, LARGEST),), **fields: Any
    ) -> GpuBackend:
        ranges, gpu = ranges_of(contract, batches), open_device(fields.pop("device", 0), providers[device.provider])
        if request.param == "host":
            from tests.host_driver.backends import Computed
            from tests.host_engine import profiles_of

            return Computed(gpu, contract, graph, profiles_of(ranges), lanes=8).backend
        options = OpenOptions(kernels=images, cuda=providers[device.provider], device=gpu.index, **fields)
        try:
            return opened(request.param, artifact_of(request.param, graph, contract, ranges), contract, options)
        except SegpipeError as error:
            if is_listed(request.param, device):
                raise
            pytest.skip(f"{request.param} does not know this GPU: {error}")

    return open_graph
