"""Every kind of frame, contract and output on a GPU, against the definition: whole, streamed, tiled and in batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segpipe.contract.schema import Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.tiling import Tiling
from tests.frame_cases import CONTRACTS, HALF_MARGIN, MASK, assert_equal, contract_of, noise, reference_scores
from tests.gpu.engines import Open
from tests.host_engine import conv_graph

pytestmark = pytest.mark.gpu
OPEN = contract_of(fit="pad", network_size=None, size_multiple=16)
CONFIDENCE_ERROR = 2e-2  # scores in TF32 or FP16
LABELS = contract_of(output_kind="labels")


def segmenter_of(backend: GpuBackend, contract: Contract) -> Segmenter:
    """The public runtime around a backend."""
    return Segmenter(backend, contract, [(0, 0, 0)] * len(contract.classes))


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_kind_of_contract_gives_the_definitions_masks(open_backend: Open, name: str) -> None:
    contract = CONTRACTS[name]
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)

    for seed, size in enumerate([(17, 33), (40, 60), (40, 60), (40, 60)]):
        frame = noise(contract, *size, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_labels_are_enlarged_as_on_the_cpu(open_backend: Open) -> None:
    graph = conv_graph(LABELS)
    cpu = load_opener("onnxruntime-cpu")(graph, LABELS, OpenOptions())
    backend = open_backend(graph, LABELS)

    for seed in range(3):
        frame = noise(LABELS, 50, 70, seed)
        same = backend.infer([frame], MASK)[0].mask == cpu.infer([frame], MASK)[0].mask
        assert same.mean() > 0.97, "TF32 moves borders by a label"
    backend.close()


def test_confidence_and_scores_are_the_definitions(open_backend: Open) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract)

    for seed in range(3):
        frame = noise(contract, 50, 70, seed)
        found = backend.infer([frame], Outputs(confidence=True, scores=True))[0]
        sure = reference_scores(graph, contract, frame).softmax(1).amax(1)[0].numpy()
        assert found.scores is not None
        assert found.confidence is not None
        assert found.scores.shape == (5, 8, 12)
        np.testing.assert_allclose(found.confidence, sure, atol=CONFIDENCE_ERROR)
        assert_equal(found.mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_masks_at_network_size_have_the_canvas_s_size(open_backend: Open) -> None:
    contract = contract_of(fit="letterbox")
    backend = open_backend(conv_graph(contract), contract)
    wanted = Outputs(at_network_size=True, confidence=True)

    for seed in range(3):
        found = backend.infer([noise(contract, 50, 70, seed)], wanted)[0]
        assert found.confidence is not None
        assert found.mask.shape == found.confidence.shape == (32, 48)
    backend.close()


def test_a_stream_keeps_order_and_content(open_backend: Open) -> None:
    contract = contract_of()
    frames = [noise(contract, *((40, 60), (80, 20))[seed % 2], seed) for seed in range(24)]
    with segmenter_of(open_backend(conv_graph(contract), contract), contract) as segmenter:
        wanted = [segmenter(frame) for frame in frames]

        found = list(segmenter.stream(frames))

    for mask, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_a_tiled_frame_is_the_frame_s_own_scores_blended(open_backend: Open) -> None:
    graph = conv_graph(OPEN)
    frame = noise(OPEN, 150, 170)
    cpu = Segmenter(load_opener("onnxruntime-cpu")(graph, OPEN, OpenOptions()), OPEN, [(0, 0, 0)] * 5)
    tiling = Tiling(tile=(64, 64))
    with segmenter_of(open_backend(graph, OPEN), OPEN) as segmenter:
        agreement = (segmenter.tiled(frame, tiling) == cpu.tiled(frame, tiling)).mean()

    assert agreement > 0.97


def test_warm_up_leaves_nothing_for_the_first_frame(open_backend: Open) -> None:
    contract = contract_of()
    backend = open_backend(conv_graph(contract), contract)
    with segmenter_of(backend, contract) as segmenter:
        segmenter.warm_up((40, 60))
        before = backend.describe()["lanes"]

        segmenter(noise(contract, 40, 60))

        assert backend.describe()["lanes"] == before
        if backend.name != "onnxruntime-cuda":
            assert [lane["graphs"] for lane in before] == [1] * 3


@pytest.mark.parametrize("batches", [((1, 1), (8, 8)), ((1, 2), (2, 4)), ((2, 4),)], ids=["gap", "overlap", "no 1"])
def test_any_number_of_frames_runs_on_any_profiles(open_backend: Open, batches: tuple[tuple[int, int], ...]) -> None:
    contract = contract_of()
    graph = conv_graph(contract)
    backend = open_backend(graph, contract, batches)

    for count in (1, 2, 3, 5, 8, 9):
        frames = [noise(contract, 40, 60, seed) for seed in range(count)]
        for frame, found in zip(frames, backend.infer(frames, MASK), strict=True):
            assert_equal(found.mask, graph, contract, frame, HALF_MARGIN)
    backend.close()


def test_more_shapes_than_a_lane_keeps_are_prepared_again(open_backend: Open) -> None:
    graph = conv_graph(OPEN)
    backend = open_backend(graph, OPEN)
    sizes = [(16, 16), (32, 16), (48, 16), (64, 16), (16, 32)]

    for seed, size in enumerate([size for size in sizes for _ in range(3)] * 2):  # run, captured, replayed, twice
        frame = noise(OPEN, *size, seed)
        assert_equal(backend.infer([frame], MASK)[0].mask, graph, OPEN, frame, HALF_MARGIN)
    backend.close()


def test_every_output_of_a_stretched_frame_is_given_at_once(open_backend: Open) -> None:
    contract = contract_of()
    backend = open_backend(conv_graph(contract), contract)
    everything = Outputs(confidence=True, scores=True)
    frame = noise(contract, 40, 60)
    alone = backend.infer([frame], MASK)[0].mask

    for wanted in (everything, replace(everything, at_network_size=True), everything):
        found = backend.infer([frame], wanted)[0]
        assert torch.isfinite(torch.from_numpy(found.confidence)).all()
        if not wanted.at_network_size:
            np.testing.assert_array_equal(found.mask, alone)
    backend.close()
