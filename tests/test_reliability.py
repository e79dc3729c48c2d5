"""The calibration error: 0 for a network that is as sure as it is right, and what it adds up by."""

import numpy as np
import pytest

from stages.measuring.reliability import Reliability


def error(confidence: list[float], right: list[bool]) -> float | None:
    sums = Reliability()
    sums.add(np.array(confidence), np.array(right, np.bool_))
    return sums.error


def test_who_is_as_sure_as_right_has_no_error_and_who_is_surer_has_the_difference() -> None:
    assert error([0.75] * 4, [True, True, True, False]) == 0.0
    assert error([0.95] * 4, [True, True, True, False]) == pytest.approx(0.2)
    assert error([0.55] * 4, [True, True, True, False]) == pytest.approx(0.2)


def test_errors_of_two_confidences_do_not_cancel() -> None:
    assert error([0.9, 0.9, 0.6, 0.6], [True, False, True, True]) == pytest.approx(0.4)


def test_without_pixels_there_is_none_and_what_is_no_number_counts_as_sure_and_wrong() -> None:
    assert error([], []) is None
    assert error([float("nan")], [True]) == 1.0


def test_sums_do_not_depend_on_how_pixels_come() -> None:
    rng = np.random.default_rng(0)
    confidence, right = rng.random(1000), rng.random(1000) < 0.7
    parts, whole = Reliability(), Reliability()
    whole.add(confidence, right)
    for part in np.array_split(np.arange(1000), 7):
        parts.add(confidence[part], right[part])

    assert parts.error == pytest.approx(whole.error)
