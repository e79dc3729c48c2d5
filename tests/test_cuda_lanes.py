"""Lanes and their pool on host memory: graphs, threads, running out of memory, losing the device, closing."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from segpipe.errors import BackendError
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import DeviceLostError, OutOfMemoryError
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import Outputs
from tests.frame_cases import MASK, assert_equal, contract_of, noise
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE, HostEngine, conv_graph, host_backend


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


def test_the_second_frame_of_a_shape_is_captured_and_later_ones_replayed() -> None:
    contract, device = contract_of(), HostDevice()
    backend = host_backend(contract, conv_graph(contract), device)
    frame = noise(contract, 40, 60)

    launches = []
    for _ in range(4):
        backend.infer([frame], MASK)
        launches.append(device.graph_launches)

    assert launches == [0, 1, 2, 3]
    assert backend.describe()["lanes"][0]["graphs"] == 1


def test_replayed_graphs_see_new_content_after_shapes_changed() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)
    sizes = [(40, 60), (80, 20), (40, 60), (200, 300), (40, 60), (80, 20)] * 3

    for seed, size in enumerate(sizes):
        frame = noise(contract, *size, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame)


def test_more_input_shapes_than_contexts_reuse_them() -> None:
    contract, device = contract_of(fit="pad", network_size=None, size_multiple=16), HostDevice()
    graph = conv_graph(contract)
    engine = HostEngine(device, graph, contract)
    with device.current():
        backend = GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), 1)
    sizes = [(16, 16), (32, 16), (48, 16), (64, 16), (16, 32), (16, 16)] * 3

    for seed, size in enumerate(sizes):
        frame = noise(contract, *size, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame)
    assert engine.contexts <= 3


def test_an_engine_that_refuses_capture_runs_without_a_graph() -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    engine = HostEngine(device, graph, contract)
    engine.refuses_capture = True
    with device.current():
        backend = GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), 1)

    for seed in range(4):
        frame = noise(contract, 40, 60, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame)
    assert device.graph_launches == 0


def test_frames_allocate_nothing_after_the_first() -> None:
    contract, device = contract_of(), HostDevice()
    backend = host_backend(contract, conv_graph(contract), device)
    sizes = [(100, 120), (40, 60)]
    for size in sizes:
        backend.infer([noise(contract, *size)], MASK)
    before = device.allocations

    for seed, size in itertools.product(range(5), sizes):
        backend.infer([noise(contract, *size, seed)], MASK)

    assert device.allocations == before


def test_eight_threads_get_their_own_frames_back() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, lanes=4)
    frames = [noise(contract, 30 + seed % 3, 50, seed) for seed in range(12)]
    wanted = [backend.infer([frame], MASK)[0].mask for frame in frames]

    def work(number: int) -> bool:
        return np.array_equal(backend.infer([frames[number % 12]], MASK)[0].mask, wanted[number % 12])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(400)))
    assert 1 <= len(backend.describe()["lanes"]) <= 4


def test_memory_for_fewer_lanes_than_threads_is_shared() -> None:
    contract, device = contract_of(), HostDevice()
    backend = host_backend(contract, conv_graph(contract), device, lanes=8)
    frame = noise(contract, 400, 400)
    backend.infer([frame], MASK)
    device.limit_bytes -= device.free_memory_bytes()  # not a byte is left for a second lane
    barrier = threading.Barrier(4)

    def work(_: int) -> tuple[int, ...]:
        barrier.wait()
        return backend.infer([frame], MASK)[0].mask.shape

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [(400, 400)] * 4


def test_out_of_memory_is_named_and_the_next_frame_works() -> None:
    contract, device = contract_of(), HostDevice(limit_bytes=400_000)
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, device)

    with pytest.raises(OutOfMemoryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        backend.infer([noise(contract, 1000, 1000)], MASK)

    frame = noise(contract, 40, 60)
    assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame)


def test_a_lost_device_is_named_and_closing_still_works() -> None:
    contract, device = contract_of(), HostDevice()
    backend = host_backend(contract, conv_graph(contract), device)
    frame = noise(contract, 40, 60)
    backend.infer([frame], MASK)
    device.lost = True

    with pytest.raises(DeviceLostError, match="the GPU was lost"):
        backend.infer([frame], MASK)

    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.infer([frame], MASK)


def test_closing_gives_everything_back() -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    for _ in range(20):
        backend = host_backend(contract, graph, device)
        for size in ((40, 60), (80, 20), (40, 60)):
            backend.infer([noise(contract, *size)], Outputs(confidence=True, scores=True))
        backend.close()
        backend.close()

    assert device.held == 0
