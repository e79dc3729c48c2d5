"""Segmenter over every backend this machine can run: right masks, from any thread, and clear refusals."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from segpipe import testing
from segpipe.artifacts import ARTIFACTS
from segpipe.contract.schema import Contract
from segpipe.errors import (
    BackendError,
    BackendMissingError,
    BuildError,
    InputError,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.request import Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.trt import Flavour, is_installed
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from stages.models import reference

AGREEMENT = 0.9995
"""Share of pixels equal to PyTorch: 8-bit rounding after a resize may move a class border by part of a pixel."""
FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})
SIZES = [(1, 1), (17, 33), (200, 90), (64, 96), (2160, 3840)]


def reference_mask(frame: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """The tiny network by PyTorch, with the definition of pre- and post-processing."""
    weight, bias = testing.weights_of(contract)
    network = nn.Conv2d(contract.channels, len(bias), contract.output_stride, contract.output_stride)
    network.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return reference.segment(network, frame, contract)


def agreement(ours: NDArray[Any], truth: NDArray[Any]) -> float:
    assert ours.shape == truth.shape
    assert ours.dtype == truth.dtype
    return float((ours == truth).mean())


def frame_of(contract: Contract, size: tuple[int, int], seed: int = 0) -> NDArray[Any]:
    if contract.channels == 3:
        return testing.make_frame(*size, seed)[0]
    rng = np.random.default_rng(seed)
    high = int(contract.value_range[1])
    return rng.integers(0, high + 1, (*size, contract.channels)).astype(contract.dtype)


def add_engine(path: Path, flavour: Flavour, *capabilities: str) -> None:
    """The tiny network as an engine, by default for this GPU, where the build stage would put it."""
    largest = max(SIZES)
    shapes = ShapeRange((1, 3, 4, 4), (1, 3, 64, 96), (4, 3, *largest))
    graph, name = testing.make_onnx(testing.CONTRACT), testing.CONTRACT.input_name
    plan = build_engine(flavour, BuildRequest(graph, name, [shapes], capabilities)).plan
    with RunDirectory(path).step("build", {}, {}) as step:
        step.path(ARTIFACTS[flavour].file).write_bytes(plan)


@pytest.mark.parametrize("flavour", ["tensorrt-rtx"])  # the other flavour's builder needs a GPU
def test_the_tiny_network_becomes_an_engine(tmp_path: Path, flavour: Flavour) -> None:
    if not is_installed(flavour):
        pytest.skip(f"{flavour} is not installed")
    path = testing.make_run(tmp_path / "run")

    add_engine(path, flavour, "8.9")

    assert RunDirectory(path).artifact("build", ARTIFACTS[flavour].file).stat().st_size > 1000


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.gpu if row.needs_gpu else ())
        for name, row in reversed(ARTIFACTS.items())
        if row.name == row.backend  # of what else a backend runs the tiny run has nothing; bf16 has tests of its own
    ],
)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    name, path = request.param, testing.make_run(tmp_path_factory.mktemp(request.param) / "run")
    try:
        if name in {"tensorrt", "tensorrt-rtx"}:
            if not is_installed(name):
                pytest.skip(f"{name} is not installed")
            add_engine(path, name)
        opened = Segmenter.open(path, name, allow_unvalidated=True)
    except BuildError as error:
        if name != "tensorrt-rtx":  # which GPUs it builds for is its own to say
            raise
        pytest.skip(str(error))
    except (BackendMissingError, BackendError) as error:
        if os.environ.get("SEGPIPE_REQUIRE_GPU") == "1":
            raise
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_masks_are_pytorchs(segmenter: Segmenter, size: tuple[int, int]) -> None:
    frame = frame_of(segmenter.contract, size)

    mask = segmenter(frame)

    assert agreement(mask, reference_mask(frame, segmenter.contract)) >= AGREEMENT


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_masks_of_a_fixed_network_size_are_pytorchs(tmp_path: Path, size: tuple[int, int], fit: str) -> None:
    contract = FIXED.model_copy(update={"fit": fit})
    frame = frame_of(contract, size)

    with Segmenter.open(testing.make_run(tmp_path, contract)) as segmenter:
        mask = segmenter(frame)

    assert agreement(mask, reference_mask(frame, contract)) >= 0.99  # a class border moves with the rounded resize


@pytest.mark.parametrize(
    ("channels", "dtype", "high"), [(1, "uint8", 255), (3, "uint16", 65535), (5, "uint8", 255), (1, "float32", 1)]
)
def test_masks_of_other_pixels_are_pytorchs(tmp_path: Path, channels: int, dtype: str, high: int) -> None:
    changed = {"channels": channels, "dtype": dtype, "value_range": (0.0, float(high)), "channel_order": "as_is"}
    statistics = {"mean": (0.4,) * channels, "std": (0.2,) * channels}
    contract = Contract(**{**testing.CONTRACT.model_dump(), **changed, **statistics})
    frame = np.random.default_rng(0).uniform(0, high, (50, 70, channels)).astype(dtype)

    with Segmenter.open(testing.make_run(tmp_path, contract)) as segmenter:
        mask = segmenter(frame)

        assert agreement(mask, reference_mask(frame, contract)) >= AGREEMENT
        if channels == 1:
            np.testing.assert_array_equal(segmenter(frame[:, :, 0]), mask)


@pytest.mark.parametrize("count", [0, 1, 3, 8, 9])
def test_lists_give_what_single_frames_give(segmenter: Segmenter, count: int) -> None:
    sizes = [(32, 48), (32, 48), (40, 40)]
    frames = [frame_of(segmenter.contract, sizes[n % 3], n) for n in range(count)]

    masks = segmenter(frames)

    assert len(masks) == count
    for frame, mask in zip(frames, masks, strict=True):
        np.testing.assert_array_equal(mask, segmenter(frame))


def test_an_array_of_frames_gives_an_array_of_masks(segmenter: Segmenter) -> None:
    frames = np.stack([frame_of(segmenter.contract, (32, 48), n) for n in range(3)])

    masks = segmenter(frames)

    np.testing.assert_array_equal(masks, np.stack(segmenter([*frames])))


@pytest.mark.parametrize("view", [np.s_[::-1, ::-1], np.s_[::2, ::3], np.s_[3:, 5:]], ids=str)
def test_any_memory_order_is_taken(segmenter: Segmenter, view: Any) -> None:
    frame = frame_of(segmenter.contract, (60, 80))[view]

    np.testing.assert_array_equal(segmenter(frame), segmenter(np.ascontiguousarray(frame)))


def test_details_are_of_the_asked_size(segmenter: Segmenter) -> None:
    frame = frame_of(segmenter.contract, (30, 50))

    full = segmenter.detail(frame, Outputs(confidence=True, scores=True))
    small = segmenter.detail(frame, Outputs(confidence=True, at_network_size=True))

    assert full.scores is not None
    assert full.confidence is not None
    assert small.confidence is not None
    assert full.scores.shape == (4, 8, 13)
    assert full.mask.shape == full.confidence.shape == (30, 50)
    assert small.mask.shape == small.confidence.shape == (32, 52)
    assert small.scores is None
    assert full.confidence.min() >= 0.25
    assert full.confidence.max() <= 1


def test_results_are_never_aliased(segmenter: Segmenter) -> None:
    outputs = Outputs(confidence=True, scores=True)
    frames = [frame_of(segmenter.contract, (32, 48), n) for n in range(2)]
    first = segmenter.detail(frames[0], outputs)
    copies = [array.copy() for array in (first.mask, first.confidence, first.scores) if array is not None]

    segmenter.detail(frames[1], outputs)
    masks = segmenter(frames)

    for array, copy in zip((first.mask, first.confidence, first.scores), copies, strict=True):
        assert array is not None
        np.testing.assert_array_equal(array, copy)
        array[...] = 0  # the caller's, so writable
    assert not np.shares_memory(masks[0], masks[1])


def test_8_threads_x_200_frames_keep_order_and_content(segmenter: Segmenter) -> None:
    frames = [frame_of(segmenter.contract, (24 + 4 * (n % 3), 32), n) for n in range(10)]
    truth = [segmenter(frame) for frame in frames]

    def work(thread: int) -> int:
        chosen = np.random.default_rng(thread).integers(0, len(frames), 200)
        return sum(not np.array_equal(segmenter(frames[n]), truth[n]) for n in chosen)

    with ThreadPoolExecutor(8) as pool:
        wrong = list(pool.map(work, range(8)))

    assert wrong == [0] * 8


def test_pytorch_runs_before_between_and_after(segmenter: Segmenter) -> None:
    frame, network, image = frame_of(segmenter.contract, (32, 48)), nn.Conv2d(3, 4, 3), torch.ones(1, 3, 32, 48)
    before, mask = network(image), segmenter(frame)

    for _ in range(3):
        assert torch.equal(network(image), before)
        np.testing.assert_array_equal(segmenter(frame), mask)


def test_two_segmenters_live_side_by_side(segmenter: Segmenter, tmp_path: Path) -> None:
    frame = frame_of(segmenter.contract, (64, 96))
    alone = segmenter(frame)

    with Segmenter.open(testing.make_run(tmp_path, FIXED)) as other:
        other_alone = other(frame)
        for _ in range(3):
            np.testing.assert_array_equal(segmenter(frame), alone)
            np.testing.assert_array_equal(other(frame), other_alone)

    np.testing.assert_array_equal(segmenter(frame), alone)


BAD_FRAMES: dict[str, tuple[Any, str]] = {
    "none": (None, "None"),
    "a list in a list": ([[1]], "list"),
    "float": (np.zeros((8, 8, 3)), "float64"),
    "two channels": (np.zeros((8, 8, 2), np.uint8), "8x8x2"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), "8x8x5"),
    "grey": (np.zeros((8, 8), np.uint8), "8x8"),
    "no rows": (np.zeros((0, 8, 3), np.uint8), "empty"),
    "empty batch": (np.zeros((0, 8, 8, 3), np.uint8), "0x8x8x3"),
    "over the limit": (np.broadcast_to(np.uint8(0), (9000, 9000, 3)), "tiled"),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_refused_and_the_segmenter_goes_on(segmenter: Segmenter, name: str) -> None:
    frame, says = BAD_FRAMES[name]

    with pytest.raises(InputError, match=says) as refusal:
        segmenter(frame)

    assert refusal.value.hint
    assert segmenter(frame_of(segmenter.contract, (8, 8))).shape == (8, 8)


def test_a_closed_segmenter_says_so(run: Path) -> None:
    segmenter = Segmenter.open(run)
    segmenter.close()
    segmenter.close()

    for call in (lambda: segmenter(testing.make_frame(8, 8)[0]), segmenter.describe, lambda: segmenter.stream([])):
        with pytest.raises(InputError, match="closed"):
            call()


def test_closing_while_threads_work_breaks_nothing(run: Path) -> None:
    segmenter, frame = Segmenter.open(run), testing.make_frame(64, 64)[0]
    truth, seen, begun = segmenter(frame), [], threading.Barrier(3)

    def work() -> None:
        begun.wait()
        try:
            for _ in range(1000):
                seen.append(np.array_equal(segmenter(frame), truth))
        except (InputError, BackendError) as error:
            seen.append("closed" in str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    segmenter.close()
    for thread in threads:
        thread.join()

    assert seen
    assert all(seen)


def test_auto_takes_the_best_that_is_usable_and_describes_it(run: Path) -> None:
    with Segmenter.open(run) as segmenter:
        found = segmenter.describe()

    assert found["backend"] == "onnxruntime-cpu"
    assert found["contract_sha256"] == testing.CONTRACT.sha256


def test_the_number_of_threads_can_be_set(run: Path) -> None:
    with Segmenter.open(run, threads=1) as segmenter:
        assert segmenter.describe()["threads"] == 1
