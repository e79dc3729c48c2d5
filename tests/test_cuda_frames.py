"""The whole GPU frame path on host memory, held to the PyTorch definition: real lanes, pool, plans and kernels."""

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.arrays import DeviceArray
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import LEGACY_STREAM, DeviceLostError, OutOfMemoryError
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import Outputs
from stages import reference
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE, HostEngine, conv_graph, host_backend
from tests.kernel_cases import RANGES, undecided

MARGIN = 5e-3  # the network's input differs by 1e-4, a weight sum of 48 terms carries that to here
HALF_MARGIN = 5e-2  # scores rounded to 11 bits
MASK = Outputs()
CLASSES = ("a", "b", "c", "d", "e")


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


def contract_of(**fields: Any) -> Contract:
    """A small network's contract."""
    plain: dict[str, Any] = {"network_size": (32, 48), "output_stride": 4, "classes": CLASSES}
    return Contract(**{**plain, **fields})


def noise(contract: Contract, height: int, width: int, seed: int = 0) -> NDArray[Any]:
    """A frame with regions, so that masks have them too."""
    low, high = RANGES[contract.dtype]
    coarse = np.random.default_rng(seed).uniform(low, high, (5, 6, contract.channels)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(
        torch.from_numpy(coarse).permute(2, 0, 1)[None], (height, width), mode="bilinear"
    )
    return np.ascontiguousarray(smooth[0].permute(1, 2, 0).numpy().astype(contract.dtype))


def reference_scores(graph: bytes, contract: Contract, frame: NDArray[Any]) -> torch.Tensor:
    """Full-size scores by the definition, with ONNX Runtime as the network."""
    placement = contract.place(*frame.shape[:2])
    tensor = reference.preprocess(frame, contract, placement).numpy()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    raw = session.run(None, {contract.input_name: tensor.astype(contract.input_dtype)})[0].astype(np.float32)
    scores = torch.from_numpy(raw.transpose(0, 3, 1, 2) if contract.output_layout == "nhwc" else raw)
    return reference.upsample(scores, placement)


def assert_equal(
    mask: NDArray[Any], graph: bytes, contract: Contract, frame: NDArray[Any], margin: float = MARGIN
) -> None:
    """The mask is the definition's, where that is decided."""
    full = reference_scores(graph, contract, frame)
    wanted = reference.decide(full, contract)
    sure = ~undecided(full, contract, margin)[0]
    assert mask.shape == wanted.shape
    assert mask.dtype == wanted.dtype
    assert np.array_equal(mask[sure], wanted[sure])
    assert sure.mean() > 0.5 or mask.size < 100


CONTRACTS = {
    "stretch": contract_of(),
    "letterbox bgr": contract_of(fit="letterbox", channel_order="bgr"),
    "pad": contract_of(fit="pad", network_size=None, size_multiple=16),
    "nhwc": contract_of(input_layout="nhwc", output_layout="nhwc"),
    "half input": contract_of(input_dtype="float16"),
    "five channels": contract_of(channels=5, channel_order="as_is", mean=(0.4,) * 5, std=(0.3,) * 5),
    "uint16": contract_of(dtype="uint16", value_range=(0, 65535)),
    "float32": contract_of(dtype="float32", value_range=(-1, 1)),
    "sigmoid": contract_of(classes=("no", "yes"), output_kind="sigmoid", threshold=0.3),
    "300 classes": contract_of(classes=tuple(map(str, range(300))), ignore_index=65535),
}


@pytest.mark.parametrize("name", CONTRACTS)
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (90, 40), (32, 48), (130, 260)], ids=str)
def test_masks_equal_the_definition(name: str, size: tuple[int, int]) -> None:
    contract = CONTRACTS[name]
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)
    frames = [noise(contract, *size, seed) for seed in range(3)]

    for frame in frames:  # uncaptured, captured, replayed
        mask = backend.infer([frame], MASK)[0].mask
        margin = HALF_MARGIN if "half" in name else MARGIN
        assert_equal(mask, graph, contract, frame, margin)
    backend.close()


def test_half_scores_are_read() -> None:
    contract = contract_of()
    graph = conv_graph(contract, "float16")
    frame = noise(contract, 64, 80)

    assert_equal(host_backend(contract, graph).infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
def test_batches_beyond_the_engine_s_are_split(count: int) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    device = HostDevice()
    engine = HostEngine(device, graph, contract, largest_batch=4)
    with device.current():
        backend = GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), 1)
    frames = [noise(contract, 40, 60, seed) for seed in range(count)]

    results = backend.infer(frames, MASK)

    assert [shape[0] for shape in engine.runs] == [4] * (count // 4) + ([count % 4] if count % 4 else [])
    for frame, result in zip(frames, results, strict=True):
        assert_equal(result.mask, graph, contract, frame)


def test_a_graph_of_fixed_batch_takes_fewer_frames() -> None:
    contract = contract_of()
    graph = conv_graph(contract, batch=4)
    frames = [noise(contract, 40, 60, seed) for seed in range(6)]

    for frame, result in zip(frames, host_backend(contract, graph).infer(frames, MASK), strict=True):
        mask = np.concatenate([frame[None]] * 4)  # the definition needs four, too
        assert mask.shape[0] == 4
        assert_equal(result.mask, conv_graph(contract), contract, frame)


def test_frames_of_mixed_sizes_keep_their_order() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    sizes = [(20, 30), (40, 50), (20, 30), (33, 17), (40, 50)]
    frames = [noise(contract, *size, seed) for seed, size in enumerate(sizes)]

    results = host_backend(contract, graph).infer(frames, MASK)

    for frame, result in zip(frames, results, strict=True):
        assert_equal(result.mask, graph, contract, frame)


def test_no_frames_give_no_results() -> None:
    contract = contract_of()

    assert host_backend(contract, conv_graph(contract)).infer([], MASK) == []


def test_any_strides_are_read() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    frame = noise(contract, 41, 59)
    backend = host_backend(contract, graph)

    for odd in (frame[::-1, ::-1], frame[:, ::2], np.asfortranarray(frame)):
        assert_equal(backend.infer([odd], MASK)[0].mask, graph, contract, odd)


def test_masks_belong_to_the_caller() -> None:
    contract = contract_of()
    backend = host_backend(contract, conv_graph(contract))
    first = backend.infer([noise(contract, 40, 60, 1)], Outputs(confidence=True, scores=True))[0]
    copies = [first.mask.copy(), first.confidence.copy(), first.scores.copy()]  # type: ignore[union-attr]

    backend.infer([noise(contract, 40, 60, 2)], Outputs(confidence=True, scores=True))

    for array, copy in zip((first.mask, first.confidence, first.scores), copies, strict=True):
        assert np.array_equal(array, copy)  # type: ignore[arg-type]


def test_confidence_and_scores_equal_the_definition() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    frame = noise(contract, 50, 70)
    result = host_backend(contract, graph).infer([frame], Outputs(confidence=True, scores=True))[0]

    full = reference_scores(graph, contract, frame)
    assert result.scores is not None
    assert result.confidence is not None
    assert result.scores.shape == (5, 8, 12)
    np.testing.assert_allclose(result.confidence, full.softmax(1).amax(1)[0].numpy(), atol=MARGIN)


def test_masks_at_network_size_have_the_canvas_s_size() -> None:
    contract = contract_of(fit="letterbox")
    graph = conv_graph(contract)
    frame = noise(contract, 50, 70)

    mask = host_backend(contract, graph).infer([frame], Outputs(at_network_size=True))[0].mask

    assert mask.shape == (32, 48)


# CUDA graphs


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


# threads, failures, closing


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


# frames and results on the device


class Interface:
    """Device memory of another library."""

    def __init__(self, array: NDArray[Any], **extra: Any) -> None:
        self.shape, self._array = array.shape, array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, True),
            "strides": array.strides,
            "version": 3,
            **extra,
        }


def test_frames_in_device_memory_are_read_with_their_strides() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)

    for seed in range(3):
        frame = noise(contract, 41, 59, seed)
        for array in (frame, frame[::-1], np.asfortranarray(frame), frame[:, ::2]):
            assert_equal(backend.infer([Interface(array, stream=None)], MASK)[0].mask, graph, contract, array)


def test_torch_frames_come_by_dlpack() -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph)
    frame = noise(contract, 41, 59)
    planes = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))

    class Tensor:  # the host's tensors refuse a stream; a GPU's take it
        shape = (41, 59, 3)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, *, stream: int) -> Any:
            assert stream > 0
            return planes.permute(1, 2, 0).__dlpack__()

    assert_equal(backend.infer([Tensor()], MASK)[0].mask, graph, contract, frame)


@pytest.mark.parametrize("extra", [{"stream": LEGACY_STREAM}, {}], ids=["named stream", "version 2 names none"])
def test_frames_still_being_made_are_waited_for(extra: dict[str, int]) -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, device)
    frame = noise(contract, 41, 59)
    unfinished = np.zeros_like(frame)
    with device.current():
        device.put(LEGACY_STREAM, lambda: np.copyto(unfinished, frame))

    mask = backend.infer([Interface(unfinished, **extra)], MASK)[0].mask

    assert_equal(mask, graph, contract, frame)


def test_a_device_frame_of_another_type_is_refused() -> None:
    contract = contract_of()
    backend = host_backend(contract, conv_graph(contract))

    with pytest.raises(InputError, match="float32"):
        backend.infer([Interface(np.zeros((8, 8, 3), np.float32), stream=None)], MASK)

    assert backend.infer([noise(contract, 8, 8)], MASK)[0].mask.shape == (8, 8)


def test_results_may_stay_on_the_device() -> None:
    contract, device = contract_of(), HostDevice()
    graph = conv_graph(contract)
    backend = host_backend(contract, graph, device)
    frames = [noise(contract, 41, 59, seed) for seed in range(3)]

    for _ in range(3):
        for frame, result in zip(frames, backend.infer(frames, Outputs(confidence=True, on_device=True)), strict=True):
            mask, confidence = torch.utils.dlpack.from_dlpack(result.mask), np.from_dlpack(result.confidence)  # type: ignore[arg-type]
            assert_equal(mask.numpy(), graph, contract, frame)
            assert confidence.shape == mask.shape


def test_memory_of_a_result_lives_as_long_as_its_consumer() -> None:
    device = HostDevice()
    with device.current():
        array = DeviceArray(device, (4, 5), np.dtype("uint8"))
    consumer = np.from_dlpack(array)
    del array
    held = device.held

    del consumer

    assert (held, device.held) == (1, 0)


def test_a_capsule_that_nobody_takes_frees_its_memory() -> None:
    device = HostDevice()
    with device.current():
        array = DeviceArray(device, (4, 5), np.dtype("float32"))
    capsule = array.__dlpack__()

    del array, capsule

    assert device.held == 0
