"""Pre- and post-processing of the CPU runtime are the contract's definition in PyTorch, for every shape and type."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.runtime.borders import argmax
from segpipe.runtime.confidence import confidence
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import preprocess
from stages.models import reference

NEAR_TIE = 1e-5
"""Lead of the winner by the largest score under which two correct float32 blends may name different classes."""
EXACT = 1e-5
"""One float32 multiply-add against subtract and divide: a few units in the last place of values below 10."""
ROUNDING = 1.0
"""Integer pixels are rounded after a resize: within one step of the pixel type."""

sides = st.integers(1, 40)
sizes = st.tuples(sides, sides)


def contract_of(**fields: Any) -> Contract:
    """A contract of three classes and a fixed network size unless told otherwise."""
    return Contract(**{"classes": ("a", "b", "c"), "network_size": (24, 32), **fields})


@st.composite
def contracts(draw: st.DrawFn) -> Contract:
    channels = draw(st.sampled_from([1, 3, 4, 6]))
    fit = draw(st.sampled_from(["stretch", "letterbox", "pad"]))
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    low = draw(st.sampled_from([0.0, -3.0]))
    return contract_of(
        channels=channels,
        channel_order=draw(st.sampled_from(["rgb", "bgr", "as_is"])) if channels == 3 else "as_is",
        dtype=dtype,
        value_range=(low, {"uint8": 255.0, "uint16": 65535.0, "float32": 2.0}[dtype]),
        mean=tuple(0.3 + 0.1 * k for k in range(channels)),
        std=tuple(0.2 + 0.05 * k for k in range(channels)),
        fit=fit,
        network_size=None if fit == "pad" else draw(sizes),
        size_multiple=draw(st.sampled_from([1, 8])),
        input_layout=draw(st.sampled_from(["nchw", "nhwc"])),
    )


def frame_of(contract: Contract, size: tuple[int, int], seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    shape = (*size, contract.channels)
    if contract.dtype == "float32":
        return rng.uniform(*contract.value_range, shape).astype(np.float32)
    return rng.integers(0, int(contract.value_range[1]) + 1, shape).astype(contract.dtype)


@settings(deadline=None, max_examples=150)
@given(contract=contracts(), size=sizes)
def test_preprocess_is_the_definition(contract: Contract, size: tuple[int, int]) -> None:
    frame, placement = frame_of(contract, size), contract.place(*size)

    ours = preprocess(frame, contract, placement)

    truth = reference.preprocess(frame, contract, placement)[0].numpy()
    low, high = contract.value_range
    resized = placement.resized != placement.source and contract.dtype != "float32"
    step = ROUNDING / ((high - low) * min(contract.std)) if resized else 0
    assert ours.shape == truth.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, truth, rtol=EXACT, atol=step + 2 * EXACT)


@pytest.mark.parametrize("view", ["negative strides", "every second pixel", "transposed"])
def test_preprocess_takes_any_memory_order(view: str) -> None:
    contract = contract_of()
    base = frame_of(contract, (40, 60))
    frame = {"negative strides": base[::-1, ::-1], "every second pixel": base[::2, ::2]}.get(view, base.swapaxes(0, 1))
    placement = contract.place(*frame.shape[:2])

    ours = preprocess(frame, contract, placement)

    np.testing.assert_array_equal(ours, preprocess(np.ascontiguousarray(frame), contract, placement))


def test_preprocess_leaves_the_frame_alone() -> None:
    contract = contract_of(fit="pad", network_size=None)
    frame = frame_of(contract, (24, 32))
    before = frame.copy()

    preprocess(frame, contract, contract.place(24, 32))

    np.testing.assert_array_equal(frame, before)


def test_bars_of_a_letterbox_are_zero_after_normalisation_even_in_a_used_buffer() -> None:
    contract = contract_of(fit="letterbox")
    used = np.full((3, 24, 32), 7, np.float32)

    preprocess(frame_of(contract, (24, 8)), contract, contract.place(24, 8), used)

    assert not used[:, :, :12].any()
    assert not used[:, :, 20:].any()


def test_uint8_networks_get_pixels_as_they_are() -> None:
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "value_range": (0.0, 1.0), "input_dtype": "uint8"}
    contract = contract_of(**plain, channel_order="bgr")
    frame = frame_of(contract_of(), (24, 32))

    tensor = preprocess(frame, contract, contract.place(24, 32))

    np.testing.assert_array_equal(tensor, frame[:, :, ::-1].transpose(2, 0, 1))


def assert_equal_but_for_near_ties(mask: NDArray[Any], scores: torch.Tensor, contract: Contract) -> None:
    """`scores` are the definition's full-size scores, CxHxW."""
    truth = reference.decide(scores[None], contract)
    if len(scores) == 1:
        limit = np.log(contract.threshold / (1 - contract.threshold))
        lead, size = (scores[0] - limit).abs(), scores.abs().max() + abs(limit)
    else:
        best = scores.topk(2, 0).values
        lead, size = best[0] - best[1], scores.abs().max()
    clear = (lead > NEAR_TIE * size).numpy()
    np.testing.assert_array_equal(mask[clear], truth[clear])
    assert mask.dtype == contract.mask_dtype
    assert mask.shape == truth.shape


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    source, canvas = draw(sizes), draw(sizes)
    resized = (draw(st.integers(1, canvas[0])), draw(st.integers(1, canvas[1])))
    free = (canvas[0] - resized[0], canvas[1] - resized[1])
    return Placement(source, canvas, resized, (free[0] // 2, free[1] // 2))


@settings(deadline=None, max_examples=200)
@given(
    placement=placements(),
    shape=st.tuples(st.integers(2, 30), st.integers(1, 20), st.integers(1, 20)),
    smooth=st.booleans(),
    layout=st.sampled_from(["nchw", "nhwc"]),
    seed=st.integers(0, 1000),
)
def test_masks_are_the_definition(
    placement: Placement, shape: tuple[int, int, int], smooth: bool, layout: str, seed: int
) -> None:
    scores = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if smooth:
        scores = np.cumsum(np.cumsum(scores, 1), 2).astype(np.float32)
    contract = contract_of(classes=tuple(map(str, range(shape[0]))), output_layout=layout)
    given_scores = scores.transpose(1, 2, 0) if layout == "nhwc" else scores

    mask = postprocess(given_scores, contract, placement)

    full = reference.upsample(torch.from_numpy(scores)[None], placement)[0]
    assert_equal_but_for_near_ties(mask, full, contract)


@settings(deadline=None, max_examples=60)
@given(placement=placements(), seed=st.integers(0, 1000), threshold=st.sampled_from([0.2, 0.5, 0.9]))
def test_sigmoid_masks_are_the_definition(placement: Placement, seed: int, threshold: float) -> None:
    scores = np.random.default_rng(seed).standard_normal((1, 7, 9)).astype(np.float32)
    contract = contract_of(classes=("back", "fore"), output_kind="sigmoid", threshold=threshold)

    mask = postprocess(scores, contract, placement)

    full = reference.upsample(torch.from_numpy(scores)[None], placement)[0]
    assert_equal_but_for_near_ties(mask, full, contract)


def test_300_classes_give_a_16_bit_mask() -> None:
    scores = np.random.default_rng(0).standard_normal((300, 6, 8)).astype(np.float32)
    contract = contract_of(classes=tuple(map(str, range(300))), ignore_index=65535)
    placement = Placement((48, 64), (48, 64), (48, 64), (0, 0))

    mask = postprocess(scores, contract, placement)

    assert_equal_but_for_near_ties(mask, reference.upsample(torch.from_numpy(scores)[None], placement)[0], contract)


def test_exact_ties_go_to_the_first_class() -> None:
    scores = np.zeros((3, 4, 4), np.float32)

    mask = postprocess(scores, contract_of(), Placement((8, 8), (4, 4), (4, 4), (0, 0)))

    assert not mask.any()


def test_labels_are_taken_from_the_nearest_score() -> None:
    labels = np.array([[0, 1], [2, 1]], np.int64)
    contract = contract_of(output_kind="labels")

    mask = postprocess(labels, contract, Placement((4, 4), (2, 2), (2, 2), (0, 0)))

    np.testing.assert_array_equal(mask, labels.repeat(2, 0).repeat(2, 1))


@settings(deadline=None, max_examples=60)
@given(shape=st.tuples(st.integers(1, 6), sides, sides), seed=st.integers(0, 99))
def test_argmax_is_numpys(shape: tuple[int, int, int], seed: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 3, shape).astype(np.float32)

    np.testing.assert_array_equal(argmax(scores), scores.argmax(0))


@settings(deadline=None, max_examples=60)
@given(placement=placements(), kind=st.sampled_from(["logits", "probabilities", "sigmoid"]), seed=st.integers(0, 99))
def test_confidence_is_the_definition(placement: Placement, kind: str, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((1 if kind == "sigmoid" else 3, 6, 5)).astype(np.float32)
    classes = ("a", "b") if kind == "sigmoid" else ("a", "b", "c")
    contract = contract_of(classes=classes, output_kind=kind)

    ours = confidence(scores, contract, placement)

    full = reference.upsample(torch.from_numpy(scores)[None], placement)[0]
    if kind == "logits":
        truth = full.softmax(0).amax(0)
    elif kind == "probabilities":
        truth = full.amax(0)
    else:
        truth = torch.maximum(full[0].sigmoid(), 1 - full[0].sigmoid())
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, truth.numpy(), atol=EXACT)
