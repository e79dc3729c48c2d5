"""Cells of many pixels are cut into parts: the same masks, and only the parts that a border crosses are blended."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segpipe.contract.schema import Placement
from segpipe.runtime.borders import Borders, argmax, mixed_cells
from segpipe.runtime.geometry import axes
from segpipe.runtime.postprocess import postprocess
from stages.models import reference
from tests.test_runtime_math import assert_equal_but_for_near_ties, contract_of


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    """Frames of 16 to 70 pixels to a score, whole or in a letterbox; the borders of parts lie anywhere."""
    source = draw(st.tuples(st.integers(80, 280), st.integers(80, 280)))
    offset = draw(st.sampled_from([(0, 0), (3, 0), (0, 5)]))
    return Placement(source, (20, 20), (20 - 2 * offset[0], 20 - 2 * offset[1]), offset)


@settings(deadline=None, max_examples=60)
@given(
    placement=placements(),
    shape=st.tuples(st.sampled_from([2, 3, 20]), st.integers(2, 5), st.integers(2, 5)),
    seed=st.integers(0, 999),
    levels=st.sampled_from([0, 3]),
)
def test_masks_of_long_cells_are_the_definition(
    placement: Placement, shape: tuple[int, int, int], seed: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, shape) if levels else rng.standard_normal(shape)).astype(np.float32)
    contract = contract_of(classes=tuple(map(str, range(shape[0]))))

    mask = postprocess(scores, contract, placement)

    full = reference.upsample(torch.from_numpy(scores)[None], placement)[0]
    assert_equal_but_for_near_ties(mask, full, contract)


@pytest.mark.parametrize("classes", [2, 3, 20])
def test_only_parts_on_a_border_are_blended(classes: int) -> None:
    scores = np.zeros((classes, 4, 4), np.float32)
    scores[0], scores[1] = np.arange(4), 1.2  # a border from top to bottom, between two scores
    rows, columns = axes(Placement((128, 128), (4, 4), (4, 4), (0, 0)), 4, 4)
    labels = argmax(scores)
    cells = np.flatnonzero(mixed_cells(labels, rows, columns))
    parts = np.zeros((5, rows.parts.count, 5, columns.parts.count), np.uint8)

    crossed = list(Borders(scores, labels, rows, columns).cut(cells, parts))

    assert rows.parts.count == columns.parts.count == 4
    assert [len(some.classes) for some in crossed] == [2]
    assert sum(some.down.size for some in crossed) == rows.parts.filled.sum()


@pytest.mark.parametrize(
    ("placement", "rows", "columns"),
    [
        (Placement((6, 8), (6, 8), (6, 8), (0, 0)), slice(0, 6), slice(0, 8)),
        (Placement((4, 8), (6, 8), (4, 8), (1, 0)), slice(1, 5), slice(0, 8)),
        (Placement((2, 8), (6, 24), (6, 24), (0, 0)), slice(1, None, 3), slice(1, None, 3)),
    ],
    ids=["same size", "letterbox", "every third"],
)
def test_a_pixel_where_a_score_is_has_its_class_whatever_the_neighbours_score(
    placement: Placement, rows: slice, columns: slice
) -> None:
    scores = np.random.default_rng(0).standard_normal((5, *placement.canvas)).astype(np.float32)
    scores[scores < -1] = -np.inf

    mask = postprocess(scores, contract_of(classes=tuple("abcde")), placement)

    np.testing.assert_array_equal(mask, scores.argmax(0)[rows, columns])
