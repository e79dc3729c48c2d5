"""Where each pixel lies in the network's answer: exact, on the CPU and in the GPU's tables alike."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.contract.schema import Contract, Placement
from segpipe.runtime.cuda.geometry import canvas_tables, mask_tables
from segpipe.runtime.geometry import axes

SIDES = range(1, 49)
LARGE = [(1080, 384), (1920, 480), (1024, 256), (2048, 320), (360, 96), (375, 128), (1242, 416), (3000, 224)]
SINGLE = 2.0**-23
"""Relative error of a weight that is kept in float32; one between two neighbours is below 1."""


def stretched(source: int, canvas: int) -> Placement:
    return Placement((source, source), (canvas, canvas), (canvas, canvas), (0, 0))


def placed(source: tuple[int, int], canvas: tuple[int, int], fit: str) -> Placement:
    fields: dict[str, Any] = {"classes": ("a", "b"), "network_size": canvas, "fit": fit}
    return Contract(**fields).place(*source)


def position(placement: Placement, axis: int, pixel: int, length: int) -> Fraction:
    """The definition, in fractions: source pixel centre -> resized frame -> canvas -> answer."""
    centre = Fraction(2 * pixel + 1, 2) * placement.resized[axis] / placement.source[axis]
    return (centre + placement.offset[axis]) * length / placement.canvas[axis]


@pytest.mark.parametrize("source", [*SIDES, *(source for source, _ in LARGE)])
def test_a_pixel_between_two_labels_takes_the_second_for_every_pair_of_sides(source: int) -> None:
    lengths = np.array([*SIDES, *(length for _, length in LARGE)])
    truth = [((2 * np.arange(source) + 1) * length // (2 * source)).tolist() for length in lengths]

    found = [axes(stretched(source, int(length)), length, 1)[0].nearest.tolist() for length in lengths]

    assert found == truth


@settings(max_examples=100)
@given(
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    canvas=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    answer=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_labels_and_neighbours_lie_where_the_definition_says(
    source: tuple[int, int], canvas: tuple[int, int], answer: tuple[int, int], fit: str
) -> None:
    placement = placed(source, canvas, fit)

    found = axes(placement, *answer)

    for axis, length in enumerate(answer):
        truth = [position(placement, axis, pixel, length) for pixel in range(source[axis])]
        between = np.array([float(where) - 0.5 for where in truth]).clip(0, length - 1)
        blended = found[axis].first + np.where(found[axis].first == found[axis].second, 0, found[axis].weight)
        assert found[axis].nearest.tolist() == [min(int(where), length - 1) for where in truth]
        np.testing.assert_allclose(blended, between, rtol=0, atol=SINGLE)


@settings(max_examples=100)
@given(
    source=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    canvas=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    fit=st.sampled_from(["stretch", "letterbox"]),
)
def test_the_gpus_tables_hold_the_positions_of_the_cpu(
    source: tuple[int, int], canvas: tuple[int, int], fit: str
) -> None:
    placement = placed(source, canvas, fit)

    tables, inner = mask_tables(placement, 11, 13), canvas_tables(placement)

    for axis, taps in zip(axes(placement, 11, 13), (tables.rows, tables.columns), strict=True):
        between = axis.first != axis.second
        np.testing.assert_array_equal(taps["nearest"], axis.nearest)
        np.testing.assert_array_equal(taps["first"], axis.first)
        np.testing.assert_array_equal(taps["weight"], np.where(between, axis.weight, 0))
        np.testing.assert_array_equal(taps["second"], np.where(taps["weight"] > 0, axis.second, axis.first))
    for side, taps in enumerate((inner.rows, inner.columns)):
        begin, end = placement.offset[side], placement.offset[side] + placement.resized[side]
        assert (taps["first"][begin:end] >= 0).all()
        assert (taps["first"][:begin] == -1).all()
        assert (taps["first"][end:] == -1).all()
