"""The whole GPU frame path on host memory, held to the PyTorch definition: real lanes, pool, plans and kernels."""

import numpy as np
import pytest

from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.request import Outputs
from tests.frame_cases import (
    CONTRACTS,
    HALF_MARGIN,
    MARGIN,
    MASK,
    assert_equal,
    contract_of,
    noise,
    reference_scores,
)
from tests.host_device import HostDevice, kernel_library
from tests.host_engine import IMAGE, HostEngine, conv_graph, host_backend


@pytest.fixture(autouse=True)
def _needs_compiler() -> None:
    kernel_library()


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
    engine = HostEngine(device, graph, contract)
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
    copies = [first.mask.copy(), first.confidence.copy(), first.scores.copy()]

    backend.infer([noise(contract, 40, 60, 2)], Outputs(confidence=True, scores=True))

    for array, copy in zip((first.mask, first.confidence, first.scores), copies, strict=True):
        assert np.array_equal(array, copy)


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
