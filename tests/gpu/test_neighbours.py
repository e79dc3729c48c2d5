"""A backend among others on its GPU: threads that allocate, PyTorch, other libraries' streams and arrays, processes."""

import gc
import subprocess
import sys
import threading
import time
from pathlib import Path
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
from segpipe.runtime.request import OpenOptions, Outputs
from stages.build.engines import built_for
from stages.config.root import BuildConfig
from tests.frame_cases import HALF_MARGIN, MASK, assert_equal, contract_of, noise
from tests.gpu.engines import LARGEST, NAMES, Open, artifact_of, flavour_of, opened, ranges_of
from tests.host_engine import conv_graph

pytestmark = pytest.mark.gpu
CONTRACT = contract_of()
GRAPH = conv_graph(CONTRACT)
SIZES = [(40, 60), (80, 20), (60, 40), (20, 80)]
LATENCY_FACTOR = 2.0
"""Host to host against engine and copies by the GPU's clock, at 1024x2048. The goal is 1.2; beyond this is a fault."""


def check(backend: GpuBackend, rounds: int = 3) -> None:
    """Frames of several sizes: run, captured, replayed."""
    for seed in range(rounds):
        for size in SIZES:
            frame = noise(CONTRACT, *size, seed)
            assert_equal(backend.infer([frame], MASK)[0].mask, GRAPH, CONTRACT, frame, HALF_MARGIN)


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
        self.input_dtype, self.output_dtype, self.profiles = engine.input_dtype, engine.output_dtype, engine.profiles
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

    def set_shape(self, shape: Shape, stream: int) -> Shape:
        """As the engine's."""
        output = self._context.set_shape(shape, stream)
        self.scratch_bytes = self._context.scratch_bytes
        return output

    def enqueue(self, source: int, target: int, scratch: int, stream: int) -> None:
        """Waits for the stream in the midst of its capture."""
        self._context.enqueue(source, target, scratch, stream)
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
        device.download(found, mask.pointer, stream)  # type: ignore[attr-defined]
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


PROCESS = """
import sys
import numpy as np
from pathlib import Path
from segpipe.contract.schema import Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
name, folder = sys.argv[1], Path(sys.argv[2])
contract = Contract.from_json((folder / "contract.json").read_text(), "test")
for _ in range(2):
    backend = load_opener(name)((folder / "artifact").read_bytes(), contract, OpenOptions())
    for _ in range(3):
        mask = backend.infer([np.zeros((40, 60, 3), np.uint8)], Outputs())[0].mask
    backend.close()
assert "torch" not in sys.modules
print(mask.shape)
"""


@pytest.mark.parametrize("name", NAMES)
def test_a_process_without_pytorch_opens_runs_and_closes(name: str, tmp_path: Path, real_gpu: None) -> None:
    artifact = artifact_of(name, GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    (tmp_path / "artifact").write_bytes(artifact)
    (tmp_path / "contract.json").write_text(CONTRACT.to_json())

    command = [sys.executable, "-c", PROCESS, name, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stdout.strip()) == (0, "(40, 60)"), result.stderr


LOST = """
from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import DeviceLostError, open_device
from segpipe.runtime.cuda.kernels import Kernels, PackArguments
device = open_device()
with device.current():
    kernels, stream = Kernels(device, {}), device.create_stream()
    kernels.pack(1, PackArguments(16, 16, 1, 1, 1, 1000, 1000, 1, 0), stream)  # nobody's memory
    try:
        device.synchronize(stream)
    except DeviceLostError as error:
        print(error.hint)
    kernels.close()
"""


def test_a_lost_device_is_named_and_the_process_ends_by_itself(real_gpu: None) -> None:
    result = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "the GPU was lost" in result.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_built_engine_passes_its_own_pre_flight(name: str, images: dict[str, bytes], real_gpu: None) -> None:
    flavour = flavour_of(name)
    if flavour is None:
        pytest.skip("a graph is for any machine")
    plan = artifact_of(name, GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    built = built_for(flavour, BuildConfig(compute_capabilities=()), gpu_name())

    backend = opened(name, plan, CONTRACT, OpenOptions(kernels=images, built_for=built))

    check(backend, 1)
    backend.close()


def test_what_rtx_compiled_is_kept_and_found(
    images: dict[str, bytes], real_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    plan = artifact_of("tensorrt-rtx", GRAPH, CONTRACT, ranges_of(CONTRACT, ((1, LARGEST),)))
    stamps = []
    for _ in range(2):
        backend = opened("tensorrt-rtx", plan, CONTRACT, OpenOptions(kernels=images))
        check(backend, 1)
        backend.close()
        stamps.append([(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "segpipe/rtx").iterdir()])

    assert len(stamps[0]) == 1
    assert stamps[0] == stamps[1], "nothing was compiled anew"


def test_the_network_s_time_is_seen_on_our_stream(open_backend: Open, real_gpu: None) -> None:
    times = {}
    for size in ((32, 48), (1024, 2048)):
        contract = contract_of(network_size=size)
        backend = open_backend(conv_graph(contract), contract)
        times[size] = min(backend.time_steps(noise(contract, *size)).network_ms for _ in range(5))
        backend.close()

    assert times[1024, 2048] > 2 * times[32, 48]


def test_host_to_host_takes_little_more_than_engine_and_copies(open_backend: Open, real_gpu: None) -> None:
    contract = contract_of(network_size=(1024, 2048))
    backend = open_backend(conv_graph(contract), contract)
    frame = noise(contract, 1024, 2048)
    for _ in range(20):
        backend.infer([frame], MASK)
    taken = []
    for _ in range(50):
        started = time.perf_counter()
        backend.infer([frame], MASK)
        taken.append(1e3 * (time.perf_counter() - started))
    steps = backend.time_steps(frame)
    backend.close()

    copies = (steps.upload_ms or 0) + (steps.download_ms or 0)
    assert float(np.median(taken)) <= LATENCY_FACTOR * (steps.pre_ms + steps.network_ms + steps.post_ms + copies)
