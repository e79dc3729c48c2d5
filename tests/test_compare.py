"""The maths of comparison: what is counted, and that every figure moves when it should."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.metrics import confusion, scores
from stages.config.root import Limits
from stages.measuring.masks import Flips, MaskComparison, MaskShape, Truth, boundary_band
from stages.measuring.tensors import TensorComparison
from stages.validate.judging.checks import Check, Measured, checks, verdict_of
from stages.validate.judging.rules import Rules

LIMITS = Limits()
SHAPE = MaskShape(classes=2, boundary_px=3)
NAMES = ("ground", "thing")


def halves() -> np.ndarray:
    """A mask with one vertical border in its middle."""
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 1
    return mask


def masks_of(candidate: np.ndarray, margin: float = 0.001) -> tuple[MaskComparison, Flips]:
    """One image whose labels equal the reference."""
    comparison = MaskComparison(SHAPE)
    truth = Truth.of(halves(), halves(), lambda pixels: np.full(pixels.size, margin), SHAPE)
    return comparison, comparison.add(truth, candidate)


def tensors_of(candidate: np.ndarray) -> TensorComparison:
    """Scores against a reference of ones."""
    comparison = TensorComparison()
    comparison.add(np.ones((2, 4, 4), np.float32), candidate, "image-1")
    return comparison


def checked(
    candidate: np.ndarray, tensors: TensorComparison | None = None, margin: float = 0.001, exact: bool = False
) -> dict[str, Check]:
    """Checks by name."""
    measured = Measured(
        masks_of(candidate, margin)[0], MaskComparison(SHAPE), tensors or tensors_of(np.ones((2, 4, 4), np.float32))
    )
    return {check.name: check for check in checks(measured, Rules(LIMITS, NAMES, "fp32" if exact else "fp16"))}


def test_equal_networks_fail_nothing() -> None:
    found = checked(halves())

    assert {check.status for check in found.values()} == {"passed", "not judged"}
    assert found["agreement"].status == found["relative_l2"].status == "passed"


def test_flips_at_the_border_are_told_from_flips_inside() -> None:
    border, inside = halves(), halves()
    border[:2, 20] = 0
    inside[:2, 35] = 0

    assert checked(border)["flips_inside"].status == "passed"
    assert checked(inside)["flips_inside"].status == "failed"


def test_a_border_moved_by_a_pixel_fails_though_nothing_inside_flips() -> None:
    found = checked(np.roll(halves(), 1, axis=1))

    assert found["flips_boundary"].status == "failed"


def test_flips_against_a_wide_margin_are_counted_apart() -> None:
    border = halves()
    border[:2, 20] = 0

    assert checked(border, margin=0.001)["large_margin_flips"].status == "passed"
    assert checked(border, margin=0.5)["large_margin_flips"].status == "failed"
    assert checked(border, margin=float("nan"))["large_margin_flips"].status == "failed"


def test_many_flips_fail_agreement_and_iou_and_name_the_class() -> None:
    found = checked(1 - halves())

    assert found["agreement"].status == found["iou_drop"].status == "failed"
    assert found["agreement"].value == 0.0
    assert "100.00% of 'ground' became 'thing'" in found["agreement"].line()
    assert "class 'ground'" in found["iou_drop"].line()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_fails_and_names_the_image(value: float) -> None:
    scores_ = np.ones((2, 4, 4), np.float32)
    scores_[0, 0, 0] = value

    check = checked(halves(), tensors_of(scores_))["non_finite"]

    assert check.status == "failed"
    assert "first in image-1" in check.line()


def test_scores_of_another_shape_fail() -> None:
    assert checked(halves(), tensors_of(np.ones((2, 2, 2), np.float32)))["relative_l2"].status == "failed"


def test_scaled_scores_fail_though_masks_agree() -> None:
    tensors = tensors_of(np.full((2, 4, 4), 1.005, np.float32))

    assert checked(halves(), tensors)["relative_l2"].status == "passed"
    assert checked(halves(), tensors, exact=True)["relative_l2"].status == "failed"


def test_scores_near_the_end_of_fp16_fail() -> None:
    tensors = TensorComparison()
    tensors.add(np.full(4, 20000.0), np.full(4, 20000.0))

    assert checked(halves(), tensors)["fp16_range"].status == "failed"


def test_what_was_not_measured_is_not_judged() -> None:
    held = checks(Measured(MaskComparison(SHAPE), MaskComparison(SHAPE)), Rules(LIMITS, NAMES, "fp16"))

    assert {check.name for check in held if check.status != "not judged"} == {"unanswered"}
    assert all(check.why_not for check in held if check.status == "not judged")
    assert verdict_of(held) == "not judged"


def test_one_broken_image_among_a_thousand_fails_and_is_named() -> None:
    comparison = MaskComparison(SHAPE)
    truth = Truth.of(halves(), None, lambda pixels: np.full(pixels.size, 0.01), SHAPE)
    broken = halves()
    broken[:4] = 1
    for number in range(1000):
        comparison.add(truth, broken if number == 7 else halves(), f"image-{number}")
    held = checks(Measured(comparison, MaskComparison(SHAPE)), Rules(LIMITS, NAMES, "fp16"))

    assert [check.name for check in held if check.status == "failed"] == ["image_agreement"]
    assert "worst image-7" in next(check.line() for check in held if check.status == "failed")


def test_a_network_without_scores_passes_on_its_masks_and_tells_what_was_not_judged() -> None:
    comparison = MaskComparison(SHAPE)
    comparison.add(Truth.of(halves(), halves(), None, SHAPE), halves())
    held = checks(Measured(comparison, MaskComparison(SHAPE)), Rules(LIMITS, NAMES, "fp16"))
    unjudged = {check.name: check.why_not for check in held if check.status == "not judged"}

    assert verdict_of(held) == "passed"
    assert unjudged["large_margin_flips"] == unjudged["relative_l2"] == "the reference gives no scores"
    assert unjudged["stress_non_finite"] == "no stress inputs"


def test_a_class_that_only_the_candidate_sees_costs_the_classes_it_took_and_no_mean() -> None:
    labels = np.zeros((40, 40), np.uint8)
    candidate = labels.copy()
    candidate[0, 0] = 1
    comparison = MaskComparison(SHAPE)
    comparison.add(Truth.of(labels, labels, None, SHAPE), candidate)

    drop = comparison.iou_drop()
    assert drop is not None
    assert drop[0] == pytest.approx(1 / 1600)
    assert drop[1] == 0
    assert comparison.candidate_miou() == pytest.approx(1599 / 1600)


def test_a_class_that_vanishes_loses_all_it_had_however_small_it_is() -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[3, 3] = 1
    comparison = MaskComparison(SHAPE)
    comparison.add(Truth.of(labels, labels, None, SHAPE), np.zeros_like(labels))

    assert comparison.iou_drop() == (1.0, 1)


def test_the_band_is_as_wide_as_asked() -> None:
    band = boundary_band(halves(), 3)

    assert np.flatnonzero(band[0]).tolist() == [17, 18, 19, 20, 21, 22]


def test_margins_fall_into_their_bins() -> None:
    candidate = halves()
    candidate[0, 20] = 0
    comparison, flips = masks_of(candidate, margin=0.05)

    assert flips.count == 1
    assert comparison.margin_counts.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 0]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), images=st.integers(1, 3))
def test_counting_only_flips_equals_counting_everything(seed: int, images: int) -> None:
    """The candidate's confusion is the reference's, corrected at the flips; labels may be ignored."""
    rng = np.random.default_rng(seed)
    shape = MaskShape(classes=3, boundary_px=1)
    comparison, whole = MaskComparison(shape), np.zeros((3, 4), np.int64)
    for _ in range(images):
        reference, candidate = rng.integers(0, 3, (2, 9, 7), np.uint8)
        labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (9, 7))
        comparison.add(Truth.of(reference, labels, lambda at: np.zeros(at.size), shape), candidate)
        whole += confusion(labels, candidate, 3)

    assert np.array_equal(comparison.ious()[1], scores(whole).iou, equal_nan=True)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), parts=st.integers(1, 4))
def test_figures_of_parts_equal_figures_of_the_whole(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    ours = rng.normal(size=(parts, 30))
    theirs = ours + rng.normal(size=ours.shape) * 0.01
    streamed, whole = TensorComparison(), TensorComparison()
    for one, other in zip(ours, theirs, strict=True):
        streamed.add(one, other)
    whole.add(ours, theirs)

    for name in ("relative_l2", "cosine", "psnr_db", "mean_abs_error", "gain", "max_abs_error", "fp16_share"):
        assert getattr(streamed, name) == pytest.approx(getattr(whole, name), rel=1e-12)
