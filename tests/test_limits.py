"""Limits that fit the network: what rounding alone does to it, times a factor, and never more than the settings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.artifacts import Precision
from segpipe.contract.schema import Contract
from stages.config.root import Limits, ValidateConfig
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.measuring.tensors import TensorComparison
from stages.validate.hops.stored import Keeper
from stages.validate.judging.checks import Measured, checks
from stages.validate.judging.rounding import LEAST, ImageRounding, Rounding, fitted
from stages.validate.judging.rules import ALLOWED, Rules
from tests.tiny import contract_fields

LIMITS = Limits()
OWN = Rounding(3e-4, 1e-3, 2e-4, 1e-3, 2e-5, 1e-3)
NAMES = ("ground", "thing")


def status(own: Rounding | None, error: float, precision: Precision = "fp16") -> str:
    """Of `relative_l2` where scores are so far off."""
    scores = np.ones((2, 8, 8))
    shape = MaskShape(classes=2, boundary_px=1)
    measured = Measured(MaskComparison(shape), MaskComparison(shape), rounding=own)
    measured.tensors.add(scores, scores * (1 + error))
    found = {check.name: check for check in checks(measured, Rules(LIMITS, NAMES, precision, own))}
    return found["relative_l2"].status


def test_weights_of_8_bits_pass_a_fixed_limit_and_fail_one_that_fits_the_network() -> None:
    assert status(None, 0.0056) == "passed"
    assert status(OWN, 0.0056) == "failed"
    assert status(OWN, 3e-4 * 5) == "passed", "sums that hardware keeps in FP16"


@pytest.mark.parametrize("broken", [None, math.inf, math.nan, 0.5])
def test_a_network_that_its_own_rounding_breaks_is_held_to_the_settings(broken: float | None) -> None:
    own = Rounding(broken, broken, broken, broken, broken, broken)

    assert status(own, 0.0079) == "passed"
    assert status(own, 0.0081) == "failed"


@given(own=st.one_of(st.floats(min_value=0), st.just(math.nan)), largest=st.floats(1e-6, 1))
def test_a_fitted_limit_is_never_looser_than_the_setting(own: float, largest: float) -> None:
    found = fitted(largest, Rounding(own, own, own, own, own, own), "flips", LIMITS.rounding_factor)

    assert found.limit <= largest


def test_what_rounding_hardly_moves_is_not_held_to_nothing() -> None:
    assert fitted(1, Rounding(0, 0, 0, 0, 0, 0), "relative_l2", 6).limit == 6 * LEAST.relative_l2  # type: ignore[operator]


def test_bf16_may_differ_by_eight_times_as_much_and_fp32_by_nothing_more() -> None:
    assert status(OWN, 3e-4 * 40, "bf16") == "passed"
    assert status(OWN, 3e-4 * 60, "bf16") == "failed"
    assert status(OWN, 3e-4, "fp32") == "failed"


def test_bf16_has_limits_of_masks_of_its_own() -> None:
    reference = np.zeros((200, 200), np.uint8)
    candidate = reference.copy()
    candidate[0, :80] = 1  # 2 in a thousand, away from every boundary: too much for FP16
    shape = MaskShape(classes=2, boundary_px=1)
    masks = MaskComparison(shape)
    masks.add(Truth.of(reference, None, lambda at: np.full(at.size, 0.01), shape), candidate)
    measured = Measured(masks, MaskComparison(shape))

    failed = {
        precision: [
            check.name for check in checks(measured, Rules(LIMITS, NAMES, precision)) if check.status == "failed"
        ]
        for precision in ("fp16", "bf16")
    }

    assert failed == {"fp16": ["flips_inside"], "bf16": []}


def test_a_limit_says_what_it_was_fitted_to() -> None:
    shape = MaskShape(classes=2, boundary_px=1)
    measured = Measured(MaskComparison(shape), MaskComparison(shape), rounding=OWN)
    measured.tensors.add(np.ones(4), np.full(4, 1.005), "image-1")
    line = next(c.line() for c in checks(measured, Rules(LIMITS, NAMES, "fp16", OWN)) if c.name == "relative_l2")

    assert line == (
        "relative_l2 0.005 (limit 0.0018, 6 times 0.0003, the network's own rounding): failed (worst image-1)"
    )


def test_a_network_that_fp16_itself_moves_too_far_is_told_the_way_out() -> None:
    own = Rounding(0.036, 0.036, 0.0, 0.0, 0.0, 0.0)
    held = {precision: Rules(LIMITS, NAMES, precision, own).relative_l2 for precision in ALLOWED}

    assert held["fp16"].limit == LIMITS.max_relative_l2
    assert "rounding alone gives 0.036: `segpipe run RUN --auto-islands`" in held["fp16"].words
    assert not [name for name, found in held.items() if name != "fp16" and "islands" in found.words]


def test_a_picture_without_foreground_does_not_fail_by_dividing_by_nothing() -> None:
    """Rounding of next to nothing is large beside it; an error of a foreground's size is not."""
    rng = np.random.default_rng(0)
    loud, quiet = rng.random((1, 16, 16)), rng.random((1, 16, 16)) * 1e-6
    tensors, broken = TensorComparison(), TensorComparison()
    for comparison, error in ((tensors, 1e-7), (broken, 1e-2)):
        comparison.add(loud, loud, "person")
        comparison.add(quiet, quiet + error, "nobody")

    assert tensors.worst_relative_l2 < 1e-4
    assert broken.worst_relative_l2 > 0.1
    assert broken.worst_at == "nobody"


def test_probabilities_next_to_zero_on_every_picture_are_no_reason_to_fail() -> None:
    quiet = np.full((1, 16, 16), 1e-6)
    plain, probabilities = TensorComparison(), TensorComparison(quietest=0.1)
    for comparison in (plain, probabilities):
        comparison.add(quiet, quiet * 1.1)

    assert plain.worst_relative_l2 == pytest.approx(0.1)
    assert probabilities.worst_relative_l2 < 1e-5


def test_an_image_that_rounding_was_not_tried_on_leaves_the_settings() -> None:
    image = ImageRounding(stress=False, relative_l2=1e-4, pixels=100, flips=0, band_pixels=10, band_flips=0)

    assert Rounding.over([image, None]) is None
    assert Rounding.over([]) is None
    assert Rounding.over([image, image]).relative_l2 == 1e-4  # type: ignore[union-attr]


def test_new_limits_leave_what_verdicts_rest_on_as_it_was_until_they_are_set() -> None:
    keeper = Keeper(8, Contract(**contract_fields()), 0.1)
    plain = keeper.basis_sha256(ValidateConfig())

    assert keeper.basis_sha256(ValidateConfig(limits=Limits(max_relative_l2=0.008))) == plain
    assert keeper.basis_sha256(ValidateConfig(limits=Limits(rounding_factor=10))) != plain
    assert keeper.basis_sha256(ValidateConfig(limits=Limits(max_iou_drop_bf16=0.03))) != plain


class Newer(Limits):
    """The limits of a later version."""

    max_newly_found: float = 1.0


class NewerSettings(ValidateConfig):
    """Its settings."""

    limits: Newer = Newer()


def test_a_limit_that_somebody_adds_leaves_what_verdicts_rest_on_as_it_was_until_it_is_set() -> None:
    keeper = Keeper(8, Contract(**contract_fields()), 0.1)
    plain = keeper.basis_sha256(ValidateConfig())

    assert keeper.basis_sha256(NewerSettings()) == plain
    assert keeper.basis_sha256(NewerSettings(limits=Newer(max_newly_found=2.0))) != plain
