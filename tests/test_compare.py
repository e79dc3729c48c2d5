"""The maths of the release gate: every limit can fail, and NaN never passes."""

import numpy as np
import pytest

from stages.compare import Check, Comparison, boundary_band
from stages.config import Limits

LIMITS = Limits()


def halves() -> np.ndarray:
    """A mask with one vertical border in its middle."""
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 1
    return mask


def compared(candidate: np.ndarray, scores: np.ndarray | None = None) -> dict[str, Check]:
    """Checks by name after one image whose labels equal the reference."""
    comparison = Comparison(classes=2, boundary_px=3)
    mask, reference = halves(), np.ones((1, 2, 4, 4), np.float32)
    comparison.add_masks(mask, candidate, mask, np.ones(mask.shape))
    comparison.add_scores(reference, reference if scores is None else scores)
    return {check.name: check for check in comparison.checks(LIMITS)}


def test_equal_networks_pass_everything() -> None:
    assert {check.status for check in compared(halves()).values()} == {"passed"}


def test_flips_at_the_border_are_told_from_flips_inside() -> None:
    border, inside = halves(), halves()
    border[:2, 20] = 0
    inside[:2, 35] = 0

    assert compared(border)["flips_inside"].status == "passed"
    assert compared(inside)["flips_inside"].status == "failed"


def test_many_flips_fail_agreement_and_iou() -> None:
    checks = compared(1 - halves())

    assert checks["agreement"].status == checks["iou_drop"].status == "failed"
    assert checks["agreement"].value == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_fails(value: float) -> None:
    scores = np.ones((1, 2, 4, 4), np.float32)
    scores[0, 0, 0, 0] = value

    assert compared(halves(), scores)["non_finite"].status == "failed"


def test_scaled_scores_fail_though_masks_agree() -> None:
    scores = np.full((1, 2, 4, 4), 1.05, np.float32)

    assert compared(halves(), scores)["relative_l2"].status == "failed"


def test_what_was_not_measured_is_not_judged() -> None:
    checks = Comparison(classes=2, boundary_px=3).checks(LIMITS)

    assert {check.name: check.status for check in checks} == {
        "agreement": "not judged",
        "flips_inside": "not judged",
        "iou_drop": "not judged",
        "relative_l2": "not judged",
        "non_finite": "passed",
    }


def test_the_band_is_as_wide_as_asked() -> None:
    band = boundary_band(halves(), 3)

    assert np.flatnonzero(band[0]).tolist() == [17, 18, 19, 20, 21, 22, 23]
