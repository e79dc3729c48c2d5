"""A backend among others on its GPU: threads that allocate, PyTorch, other libraries' streams and arrays, processes."""

import gc
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.cuda.engine import Engine, EngineContext, Shape
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import Outputs
from tests.frame_cases import HALF_MARGIN, MASK, assert_equal, noise
from tests.gpu.engines import (
    CONTRACT,
    GRAPH,
    SIZES,
    Open,
    check,
)

pytestmark = pytest.mark.gpu


def test_captures_survive_a_thread_that_allocates(open_backend: Open, device: Device) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    over = threading.Event()

    def allocate() -> None:
        with device.current():
            while not over.is_set():
                device.free(device.allocate(1 << 16))

    thread = threading.Thread(target=allocate)
    thread.start()
    try:
        check(backend)
    finally:
        over.set()
        thread.join()
    if backend.name != "onnxruntime-cuda":
        assert backend.describe()["lanes"][0]["graphs"] == len(SIZES)
    backend.close()


def test_captures_survive_pytorch_at_work(open_backend: Open, real_gpu: None) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            torch.randn(512, 512, device="cuda").matmul(torch.randn(512, 512, device="cuda")).sum().item()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        check(backend)
    finally:
        over.set()
        thread.join()
    backend.close()


def test_frames_may_run_while_pytorch_captures_with_its_thread_local_rules(open_backend: Open, real_gpu: None) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    check(backend)
    held, graph = torch.ones(1000, device="cuda"), torch.cuda.CUDAGraph()

    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        doubled = held * 2
        thread = threading.Thread(target=check, args=(backend, 1))
        thread.start()
        thread.join()
    graph.replay()
    torch.cuda.synchronize()

    assert doubled.sum().item() == 2000
    backend.close()


class _Stubborn:
    """An engine whose second enqueue, the one that is captured, does what no capture allows."""

    def __init__(self, engine: Engine, device: Device) -> None:
        self.input_dtype, self.output_dtypes, self.profiles = engine.input_dtype, engine.output_dtypes, engine.profiles
        self.describe, self.close = engine.describe, engine.close
        self._engine, self._device = engine, device

    def context(self) -> EngineContext:
        """Stubborn, too."""
        return _StubbornContext(self._engine.context(), self._device)


class _StubbornContext:
    def __init__(self, context: EngineContext, device: Device) -> None:
        self._context, self._device, self._calls = context, device, 0
        self.is_capturable = context.is_capturable
        self.scratch_bytes = 0

    def set_shape(self, shape: Shape, stream: int) -> Mapping[str, Shape]:
        """As the engine's."""
        outputs = self._context.set_shape(shape, stream)
        self.scratch_bytes = self._context.scratch_bytes
        return outputs

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Waits for the stream in the midst of its capture."""
        self._context.enqueue(source, targets, scratch, stream)
        self._calls += 1
        if self._calls == 2:
            self._device.synchronize(stream)


def test_a_capture_that_breaks_in_the_engine_leaves_frames_without_a_graph(open_backend: Open, device: Device) -> None:
    inner = open_backend(GRAPH, CONTRACT)
    parts = inner._parts
    backend = GpuBackend("stubborn", device, Parts(_Stubborn(parts.engine, device), CONTRACT, parts.kernels), 1)

    for seed in range(4):
        frame = noise(CONTRACT, 40, 60, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame, HALF_MARGIN)
    assert backend.describe()["lanes"][0]["graphs"] == 0
    inner._pool.close()
    backend.close()


def test_a_lane_works_on_after_a_wrong_frame(open_backend: Open, device: Device) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    check(backend)
    before = backend.describe()["lanes"]

    class Wrong:
        shape, dtype = (40, 60, 3), np.dtype("float32")

        @property
        def __cuda_array_interface__(self) -> dict[str, object]:
            return {"shape": self.shape, "typestr": "<f4", "data": (4096, True), "version": 3, "stream": None}

    with pytest.raises(InputError, match="float32"):
        backend.infer([Wrong()], MASK)

    check(backend, 1)
    assert len(backend.describe()["lanes"]) == len(before)
    backend.close()


def test_memory_for_fewer_lanes_serves_all_callers(open_backend: Open, device: Device) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    large = noise(CONTRACT, 1500, 2000)
    backend.infer([large], MASK)
    with device.current():
        hog = device.allocate(max(device.free_memory_bytes() - (8 << 20), 1))
    barrier, wrong = threading.Barrier(4), []

    def work() -> None:
        barrier.wait()
        try:
            backend.infer([large], MASK)
        except BackendError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        with device.current():
            device.free(hog)
    assert wrong == []
    backend.close()


def test_arrays_outlive_their_backend(open_backend: Open, device: Device) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    frame = noise(CONTRACT, 40, 60)
    wanted = backend.infer([frame], MASK)[0].mask
    mask = backend.infer([frame], Outputs(on_device=True))[0].mask
    backend.close()
    found = np.zeros((40, 60), np.uint8)

    with device.current():
        stream = device.create_stream()
        device.download(found, mask.pointer, stream)
        device.synchronize(stream)
        device.destroy_stream(stream)
    del mask
    gc.collect()

    np.testing.assert_array_equal(found, wanted)


def test_frames_that_name_their_stream_are_waited_for(open_backend: Open, device: Device) -> None:
    backend = open_backend(GRAPH, CONTRACT)
    frame = noise(CONTRACT, 200, 300)
    with device.current():
        stream, memory = device.create_stream(), device.allocate(frame.nbytes)
        pinned = device.allocate_pinned(frame.nbytes)
    pinned[:] = frame.reshape(-1)

    class Named:
        shape, dtype = frame.shape, frame.dtype

        @property
        def __cuda_array_interface__(self) -> dict[str, object]:
            found = {"shape": self.shape, "typestr": "|u1", "data": (memory, True), "version": 3}
            return {**found, "strides": None, "stream": stream}

    for _ in range(3):
        with device.current():
            device.upload(memory, pinned, stream)  # nobody waits for it here
        assert_equal(backend.infer([Named()], MASK)[0].mask, GRAPH, CONTRACT, frame, HALF_MARGIN)
    with device.current():
        device.synchronize(stream)
        device.free(memory)
        device.free_pinned(pinned)
        device.destroy_stream(stream)
    backend.close()


def test_the_second_gpu_runs_beside_the_first(open_backend: Open) -> None:
    if gpu_name(1) is None:
        pytest.skip("this machine has one GPU")
    first, second = open_backend(GRAPH, CONTRACT), open_backend(GRAPH, CONTRACT, device=1)
    frame = noise(CONTRACT, 40, 60)

    check(first)
    check(second)
    mask: Any = second.infer([frame], Outputs(on_device=True))[0].mask
    assert mask.__dlpack_device__()[1] == 1
    del mask
    first.close()
    second.close()
