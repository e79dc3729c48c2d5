"""Every GPU backend against the definition: TensorRT in both flavours and ONNX Runtime CUDA, with each provider."""

import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from segpipe.errors import BackendError
from segpipe.runtime.backends import load_opener
from segpipe.runtime.cuda.device import Device, OutOfMemoryError
from segpipe.runtime.request import BuiltFor, OpenOptions, Outputs
from segpipe.runtime.trt import Flavour, is_installed
from tests.frame_cases import HALF_MARGIN, MASK, assert_equal, contract_of, noise
from tests.gpu.engines import LARGEST, Open
from tests.host_driver import driver
from tests.host_engine import conv_graph

pytestmark = pytest.mark.gpu
ON_HOST = driver.is_here()
LARGE = (128, 256) if ON_HOST else (1024, 2048)  # where a CPU's threads are a GPU's, pixels take their time
SIZES = [(1, 1), (17, 33), (90, 40), (32, 48), (216, 384) if ON_HOST else (2160, 3840)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_masks_equal_the_definition(open_backend: Open, dtype: str) -> None:
    contract = contract_of()
    graph = conv_graph(contract, dtype)
    backend = open_backend(graph, contract)

    for size in SIZES:
        for seed in range(3):  # uncaptured, captured, replayed
            frame = noise(contract, *size, seed)
            assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_a_frames_steps_are_timed_and_masks_stay_right(open_backend: Open) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)
    frame = noise(contract, 40, 60)

    for _ in range(3):
        times = backend.time_steps(frame)
        assert times.upload_ms is not None
        assert times.download_ms is not None
        assert min(times.upload_ms, times.pre_ms, times.network_ms, times.post_ms, times.download_ms) > 0
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


@pytest.mark.parametrize("count", [1, 3, LARGEST, LARGEST + 1])
def test_batches_are_split_and_ordered(open_backend: Open, count: int) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)
    frames = [noise(contract, 40, 60, seed) for seed in range(count)]

    for _ in range(3):
        for frame, result in zip(frames, backend.infer(frames, MASK), strict=True):
            assert_equal(result.mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_graphs_follow_content_and_shape(open_backend: Open) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)

    for seed, size in enumerate([(40, 60), (80, 20), (40, 60), (200, 300)] * 5):
        frame = noise(contract, *size, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    if backend.name != "onnxruntime-cuda":
        assert backend.describe()["lanes"][0]["graphs"] > 0
    backend.close()


def test_eight_threads_get_their_own_frames_back(open_backend: Open) -> None:
    contract = contract_of()
    backend = open_backend(conv_graph(contract), contract)
    frames = [noise(contract, 30 + seed % 3, 50, seed) for seed in range(12)]
    wanted = [backend.infer([frame], MASK)[0].mask for frame in frames]

    def work(number: int) -> bool:
        return np.array_equal(backend.infer([frames[number % 12]], MASK)[0].mask, wanted[number % 12])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(1600)))
    backend.close()


def test_torch_frames_and_results_stay_on_the_gpu(open_backend: Open, real_gpu: None) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    for seed in range(6):
        frame = noise(contract, 200, 300, seed)
        with torch.cuda.stream(stream):  # the frame is still being made when it is handed over
            planes = torch.from_numpy(frame.transpose(2, 0, 1).copy()).pin_memory().to("cuda", non_blocking=True)
            result = backend.infer([planes.permute(1, 2, 0)], Outputs(on_device=True))[0]
        mask = torch.utils.dlpack.from_dlpack(result.mask)
        assert mask.is_cuda
        assert_equal(mask.cpu().numpy(), graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_cupy_frames_are_read(open_backend: Open, real_gpu: None) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)
    frame = noise(contract, 100, 120)

    assert_equal(backend.infer([cupy.asarray(frame)], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_frames_allocate_nothing_after_warm_up(open_backend: Open, device: Device) -> None:
    contract = contract_of()
    backend = open_backend(conv_graph(contract), contract)
    frame = noise(contract, *LARGE)
    for _ in range(5):
        backend.infer([frame], MASK)
    with device.current():
        before = device.free_memory_bytes()

    for _ in range(200):
        backend.infer([frame], MASK)

    with device.current():
        assert device.free_memory_bytes() >= before
    backend.close()


def test_out_of_memory_leaves_the_backend_usable(open_backend: Open, device: Device) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)
    frame = noise(contract, 40, 60)
    backend.infer([frame], MASK)
    with device.current():
        hog = device.allocate(device.free_memory_bytes() - (300 << 20))
    try:
        with pytest.raises(OutOfMemoryError):
            backend.infer([np.zeros((12_000, 12_000, 3), np.uint8)], Outputs(confidence=True))
    finally:
        with device.current():
            device.free(hog)

    assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_opening_and_closing_leaks_nothing(open_backend: Open, device: Device) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    frame = noise(contract, 100, 100)

    def round_trip() -> int:
        backend = open_backend(graph, contract)
        for _ in range(3):
            backend.infer([frame], MASK)
        backend.close()
        gc.collect()
        with device.current():
            return device.free_memory_bytes()

    left = [round_trip() for _ in range(10)]
    assert left[2] - left[-1] < 32 << 20  # the first rounds load libraries


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_foreign_engines_are_refused_before_they_are_parsed(flavour: Flavour, real_gpu: None) -> None:
    if not is_installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    opener = load_opener(flavour)
    built = BuiltFor(version="0.0", gpu="Voodoo 2", compute_capabilities=("1.0",))

    with pytest.raises(BackendError, match="was built"):
        opener(b"not an engine", contract_of(), OpenOptions(built_for=built))


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
def test_a_damaged_engine_is_a_clear_error(flavour: Flavour, real_gpu: None) -> None:
    if not is_installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    opener = load_opener(flavour)

    with pytest.raises(BackendError):
        opener(b"not an engine" * 100, contract_of(), OpenOptions())
