"""The measures compared with slow, plain implementations that share nothing with them."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from stages.config.root import Limits
from stages.measuring.masks import MaskComparison, MaskShape, Truth, boundary_band
from stages.measuring.tensors import TensorComparison
from stages.validate.hops.margins import margins_at
from stages.validate.judging.checks import Measured, checks, verdict_of
from stages.validate.judging.rules import Rules
from tests.tiny import contract_fields

SEEDS = st.integers(0, 2**32 - 1)
CLASSES = 3
NO_CLASS = 255
FLOAT32 = 1e-5
"""Blending in another order, in float32."""

Mask = NDArray[np.uint8]


def random_masks(seed: int) -> tuple[Mask, Mask, Mask]:
    """Labels (some ignored), reference and candidate, both also with what is no class. Classes may be absent."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 2))
    values = [*rng.choice(CLASSES, rng.integers(1, CLASSES + 1), replace=False), NO_CLASS]
    labels, reference, candidate = (rng.choice(np.array(values, np.uint8), shape) for _ in range(3))
    return labels, reference, np.where(rng.random(shape) < 0.7, reference, candidate)


def compared(*images: tuple[Mask, Mask, Mask]) -> MaskComparison:
    """Images through the comparison."""
    shape = MaskShape(CLASSES, boundary_px=2)
    comparison = MaskComparison(shape)
    for number, (labels, reference, candidate) in enumerate(images):
        truth = Truth.of(reference, labels, lambda at: np.zeros(at.size), shape)
        comparison.add(truth, candidate, str(number))
    return comparison


def naive_iou(pairs: Counter[tuple[int, int]], index: int) -> float | None:
    """Pixel by pixel: both, by either. Pixels without a label are not there."""
    both = sum(n for (label, found), n in pairs.items() if label == index == found)
    either = sum(n for (label, found), n in pairs.items() if index in (label, found))
    return both / either if either else None


@settings(max_examples=150)
@given(seed=SEEDS, count=st.integers(1, 3))
def test_ious_and_drops_equal_counting_by_hand(seed: int, count: int) -> None:
    images = [random_masks(seed + number) for number in range(count)]
    comparison = compared(*images)
    pairs: list[Counter[tuple[int, int]]] = [Counter(), Counter()]
    for labels, *masks in images:
        for counter, mask in zip(pairs, masks, strict=True):
            counter.update((int(a), int(b)) for a, b in zip(labels.flat, mask.flat, strict=True) if a < CLASSES)
    ious = [[naive_iou(counter, index) for index in range(CLASSES)] for counter in pairs]
    labelled = {label for label, _ in pairs[0]}
    drops = [float(before or 0) - float(after or 0) for before, after in zip(*ious, strict=True)]
    found = comparison.iou_drop()

    assert [[None if np.isnan(v) else v for v in side] for side in comparison.ious()] == ious
    assert (found is None) == (not labelled)
    if found is not None:
        assert found[0] == pytest.approx(max(drops[index] for index in labelled), abs=1e-12)
        mean = sum(drops[index] for index in labelled) / len(labelled)
        reference, candidate = comparison.reference_miou(), comparison.candidate_miou()
        assert reference is not None
        assert candidate is not None
        assert reference - candidate == pytest.approx(mean, abs=1e-12)
        assert mean <= found[0] + 1e-12


@settings(max_examples=100)
@given(seed=SEEDS, count=st.integers(1, 3))
def test_flips_equal_counting_by_hand(seed: int, count: int) -> None:
    images = [random_masks(seed + number) for number in range(count)]
    comparison = compared(*images)
    flips = [[(int(a), int(b)) for a, b in zip(r.flat, c.flat, strict=True) if a != b] for _, r, c in images]
    became = Counter((min(old, CLASSES), min(new, CLASSES)) for image in flips for old, new in image)
    shares = [1 - len(image) / labels.size for image, (labels, _, _) in zip(flips, images, strict=True)]

    assert comparison.flips == sum(map(len, flips))
    assert comparison.worst_agreement == pytest.approx(min(shares))
    assert comparison.worst_at == str(int(np.argmin(shares)))
    assert {tuple(at): int(comparison.pairs[tuple(at)]) for at in np.argwhere(comparison.pairs)} == became


@settings(max_examples=100)
@given(seed=SEEDS, width=st.integers(1, 4))
def test_the_band_is_what_lies_within_its_width_of_another_class(seed: int, width: int) -> None:
    mask = random_masks(seed)[1]
    rows, columns = mask.shape
    places = [(y, x) for y in range(rows) for x in range(columns)]
    beside = [
        (y, x)
        for y, x in places
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= y + dy < rows and 0 <= x + dx < columns and mask[y, x] != mask[y + dy, x + dx]
    ]
    near = {(y, x) for y, x in places if any(max(abs(y - b), abs(x - a)) < width for b, a in beside)}

    assert {tuple(at) for at in np.argwhere(boundary_band(mask, width)).tolist()} == near


@settings(max_examples=60)
@given(seed=SEEDS, fit=st.sampled_from(["stretch", "letterbox"]))
def test_margins_are_the_lead_in_pytorchs_upsampled_scores(seed: int, fit: str) -> None:
    from stages.models.reference import upsample

    rng = np.random.default_rng(seed)
    contract = Contract.model_validate(contract_fields(fit=fit))
    size = (int(rng.integers(2, 70)), int(rng.integers(2, 70)))
    scores = rng.normal(size=(3, 8, 12)).astype(np.float32)
    pixels = rng.integers(0, size[0] * size[1], 50)
    full = upsample(torch.from_numpy(scores)[None], contract.place(*size))[0].reshape(3, -1)
    best = full.double().topk(2, dim=0).values
    expected = ((best[0] - best[1])[torch.from_numpy(pixels)] / scores.std(dtype=np.float64)).numpy()

    assert np.allclose(margins_at(scores, size, contract, pixels), expected, atol=FLOAT32)


@settings(max_examples=100)
@given(seed=SEEDS, value=st.sampled_from([np.nan, np.inf, -np.inf]), side=st.sampled_from(["ours", "theirs"]))
def test_what_is_no_number_never_passes_wherever_it_is(seed: int, value: float, side: str) -> None:
    rng = np.random.default_rng(seed)
    arrays = {"ours": rng.normal(size=(3, 4, 5)), "theirs": rng.normal(size=(3, 4, 5))}
    arrays["theirs"] = arrays["ours"].copy()
    arrays[side].flat[rng.integers(0, 60)] = value
    same = np.zeros((8, 8), np.uint8)
    for name in ("tensors", "stress", "batches"):
        measured = Measured(compared((same, same, same)), MaskComparison(MaskShape(CLASSES, 2)))
        getattr(measured, name).add(arrays["ours"], arrays["theirs"], "image")
        held = checks(measured, Rules(Limits(), ("a", "b", "c"), "fp16"))

        assert verdict_of(held) == "failed"


@settings(max_examples=60)
@given(seed=SEEDS)
def test_errors_of_scores_equal_the_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [(ours := rng.normal(size=12), ours + rng.normal(size=12) * 0.1) for _ in range(3)]
    found = TensorComparison()
    for ours, theirs in pairs:
        found.add(ours, theirs)
    all_ours, all_theirs = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    error: Any = all_theirs - all_ours
    spread = all_ours.max() - all_ours.min()

    assert found.relative_l2 == pytest.approx(np.linalg.norm(error) / np.linalg.norm(all_ours))
    assert found.worst_relative_l2 == pytest.approx(max(np.linalg.norm(b - a) / np.linalg.norm(a) for a, b in pairs))
    assert found.max_abs_error == pytest.approx(np.abs(error).max())
    assert found.mean_abs_error == pytest.approx(np.abs(error).mean())
    assert found.psnr_db == pytest.approx(20 * np.log10(spread / np.sqrt((error**2).mean())))
    assert found.cosine == pytest.approx(
        (all_ours @ all_theirs) / (np.linalg.norm(all_ours) * np.linalg.norm(all_theirs))
    )


def test_scores_against_a_reference_of_zeros_are_infinitely_wrong() -> None:
    found = TensorComparison()
    found.add(np.zeros(4), np.full(4, 1e-3))

    assert found.relative_l2 == found.worst_relative_l2 == np.inf
