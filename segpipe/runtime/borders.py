"""The mask at borders between classes: who can win in a cell of four scores, in the parts of it, and at its pixels.

Between four neighbouring score vectors that share their argmax every bilinear blend has that argmax too. So a border
crosses a cell only where they do not, and of a long cell, cut into parts, only the parts whose own corners differ. The
pixels of those are blended, with the classes that are not below another one at all four corners: mostly two.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.runtime.geometry import Axis, CellParts

_BLOCK_CORNERS = 1 << 19  # corner scores of cells that are worked on together
_BLOCK_PIXELS = 1 << 16  # pixels blended together: the working set stays in the cache
_CELLS = (0, 2, 16, 64, 256, 1 << 16)  # cells whose candidates are about as many go together: each group costs calls
_PARTS = (0, 2, 4, 16, 64, 256, 1 << 16)

Scores = NDArray[np.float32]
Mask = NDArray[Any]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]


def argmax(scores: Scores) -> Mask:
    """Class of the greatest score, HxW; the first wins ties. Plane by plane: several times faster than numpy's."""
    dtype = np.uint8 if len(scores) <= 256 else np.uint16
    return _named_greatest(scores, np.arange(len(scores), dtype=dtype))


def _named_greatest(scores: Scores, names: Mask) -> Mask:
    """The name of the greatest of several scores, K x ...; the first wins ties. Arithmetic: masked copies are slow."""
    winner = np.broadcast_to(names[0], scores.shape[1:]).copy()
    best, better, change = scores[0].copy(), np.empty(winner.shape, np.bool_), np.empty_like(winner)
    for name, score in zip(names[1:], scores[1:], strict=True):
        np.greater(score, best, out=better)
        np.maximum(score, best, out=best)
        np.subtract(name, winner, out=change)
        change *= better
        winner += change
    return winner


def mixed_cells(labels: Mask, rows: Axis, columns: Axis) -> Flags:
    """Cells that hold pixels and whose four corners do not share one label, (h + 1) x (w + 1)."""
    mixed = _corners_differ(np.pad(labels, 1, mode="edge"))
    mixed &= (np.diff(rows.starts) > 0)[:, None]
    mixed &= np.diff(columns.starts) > 0
    return mixed


@dataclass(frozen=True)
class Crossed:
    """Parts that a border crosses: where they are, their candidates, and those at the corners of the cell."""

    down: Indices
    right: Indices
    classes: Mask
    """Candidates x parts."""
    corners: Scores
    """4 x candidates x parts; 4 x parts where two classes share the cell: the lead of the first."""


class Borders:
    """The scores of one frame, CxHxW, with their labels and the axes of its mask."""

    def __init__(self, scores: Scores, labels: Mask, rows: Axis, columns: Axis) -> None:
        self._planes, self._labels = scores.reshape(len(scores), -1), labels
        self._rows, self._columns = rows.parts, columns.parts

    def cut(self, cells: Indices, winners: Mask) -> Iterator[Crossed]:
        """Write who wins in the parts of mixed cells into `winners` (cell x part x cell x part)."""
        step = max(_BLOCK_CORNERS // (4 * len(self._planes)), 1)
        for start in range(0, cells.size, step):
            down, right = np.divmod(cells[start : start + step], self._labels.shape[1] + 1)
            at = self._corners(down, right)
            corners = _gather(self._planes, at)
            candidates = _contenders(corners, self._labels.reshape(-1)[at])
            whole = self._rows.count == self._columns.count == 1
            for some, classes, own in _grouped(candidates, _PARTS if whole else _CELLS):
                scores = corners[:, classes, some]
                lead_or_all = scores[:, 0] - scores[:, 1] if len(classes) == 2 else scores
                group = Crossed(down[some], right[some], classes.astype(self._labels.dtype), lead_or_all)
                yield from (group,) if whole else self._cut(group, own, winners)

    def blend(self, parts: Crossed, mask: Mask) -> None:
        """Write the class of every pixel of these parts into the mask; the first of the greatest wins."""
        step = max(2 * _BLOCK_PIXELS // (self._rows.pixels * self._columns.pixels * len(parts.classes)), 1)
        for start in range(0, parts.down.size, step):
            down, right = parts.down[start : start + step], parts.right[start : start + step]
            classes = parts.classes[:, start : start + step]
            corners = parts.corners[..., start : start + step]
            (y, wy), (x, wx) = self._rows.pixels_in(down), self._columns.pixels_in(right)
            winner = _winners(corners, classes, wy, wx)
            mask.reshape(-1)[(y * mask.shape[1])[:, None] + x] = winner

    def _cut(self, cells: Crossed, own: Flags, winners: Mask) -> Iterator[Crossed]:
        """One group of cells. Candidates that are not a cell's `own` fill it up."""
        rows, columns, names = self._rows, self._columns, cells.classes
        values, first = _at_edges(cells.corners, rows, columns)
        winners[cells.down, :, cells.right, :] = names[first[:-1, :-1], np.arange(names.shape[1])].transpose(2, 0, 1)
        crossed = _corners_differ(first)
        crossed &= rows.filled[cells.down].T[:, None] & columns.filled[cells.right].T
        row, column, cell = np.nonzero(crossed)
        down, right = cells.down[cell] * rows.count + row, cells.right[cell] * columns.count + column
        if cells.corners.ndim == 2:
            yield Crossed(down, right, names[:, cell], cells.corners[:, cell])
            return
        at = _around((row * first.shape[1] + column) * first.shape[2] + cell, first.shape[1:])
        candidates = _contenders(_gather(values.reshape(len(values), -1), at), first.reshape(-1)[at]) & own[:, cell]
        for some, kept, _ in _grouped(candidates, _PARTS):
            of = cell[some]
            yield Crossed(down[some], right[some], names[kept, of], cells.corners[:, kept, of])

    def _corners(self, down: Indices, right: Indices) -> Indices:
        """Where the scores of the corners of cells are, 4 x cells."""
        height, width = self._labels.shape
        above, left = (down - 1).clip(0) * width, (right - 1).clip(0)
        below, beside = down.clip(max=height - 1) * width, right.clip(max=width - 1)
        return np.stack([above + left, above + beside, below + left, below + beside])


def _around(first: Indices, shape: tuple[int, ...]) -> Indices:
    """Where the four corners of parts are, among edges of columns x cells."""
    right, down = shape[1], shape[0] * shape[1]
    return np.stack([first, first + right, first + down, first + down + right])


def _gather(planes: Scores, at: Indices) -> Scores:
    """4 x classes x cells."""
    return planes.take(at.ravel(), 1).reshape(len(planes), 4, -1).swapaxes(0, 1)


def _corners_differ(labels: Mask) -> Flags:
    inner = labels[:-1, :-1]
    differ: Flags = (inner != labels[1:, :-1]) | (inner != labels[:-1, 1:]) | (inner != labels[1:, 1:])
    return differ


def _contenders(corners: Scores, winners: Mask) -> Flags:
    """Classes x cells: false for a class that is, at all four corners, below the winner of one corner or below the
    mean of the four winners. The greatest blend is nowhere less than either's."""
    if corners.shape[1] == 2:  # where both win a corner, both may
        return np.ones(corners.shape[1:], np.bool_)
    cells = np.arange(winners.shape[1])
    rivals = corners[:, winners, cells]
    mean = (rivals[:, 0] + rivals[:, 1] + rivals[:, 2] + rivals[:, 3]) * np.float32(0.25)
    beaten = np.zeros(corners.shape[1:], np.bool_)
    for rival in (mean, *rivals.swapaxes(0, 1)):
        beaten |= (corners < rival[:, None]).all(0)
    beaten[winners, cells] = False
    return ~beaten


def _grouped(candidates: Flags, sizes: tuple[int, ...]) -> Iterator[tuple[Indices, Indices, Flags]]:
    """Cells with about as many candidates: which cells, their candidates, and which of those are not the last again."""
    counts = candidates.sum(0)
    _, classes = np.nonzero(candidates.T)
    ends = np.cumsum(counts)
    for low, high in pairwise(sizes):
        some = np.flatnonzero((counts > low) & (counts <= high))
        if some.size:
            number = np.arange(counts[some].max())[:, None]
            own = number < counts[some]
            yield some, classes[np.where(own, ends[some] - counts[some] + number, ends[some] - 1)], own
        if counts.max(initial=0) <= high:
            return


def _at_edges(corners: Scores, rows: CellParts, columns: CellParts) -> tuple[Scores, Mask]:
    """At the corners of parts: the blends, and the number of the candidate that is greatest."""
    wy, wx = rows.edges[:, None], columns.edges[:, None]
    values = _blend(corners, wy, wx)
    if corners.ndim == 2:
        return values, (~(values >= 0)).view(np.uint8)
    return values, argmax(values.reshape(len(values), -1, values.shape[-1])).reshape(values.shape[1:])


def _winners(corners: Scores, classes: Mask, wy: Scores, wx: Scores) -> Mask:
    """The class with the greatest blend, of several candidates."""
    if corners.ndim == 2:
        first, second = classes
        winner = (_blend(corners, wy, wx) >= 0).astype(classes.dtype)
        winner *= first - second
        winner += second
        return winner
    return _named_greatest(_blend(corners, wy, wx), classes)


def _blend(corners: Scores, wy: Scores, wx: Scores) -> Scores:
    """Corner scores (4 x ... x cells) to the bilinear blend at (... x rows x columns x cells)."""
    upper_left, upper_right, lower_left, lower_right = corners[..., None, :]
    above = upper_left + (upper_right - upper_left) * wx
    drop = lower_left + (lower_right - lower_left) * wx - above
    value: Scores = drop[..., None, :, :] * wy[:, None]
    value += above[..., None, :, :]
    return value
