"""Network output to masks on the CPU: bilinear upsampling to the source frame and argmax in one step.

Between four neighbouring score vectors that share their argmax every bilinear blend has that argmax too, so only the
cells on class borders need arithmetic, and there only for the classes that are not below another one at all four
corners: mostly two. Full-resolution scores never exist.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.errors import BackendError
from segpipe.runtime.geometry import Axis, axes

_BLOCK_CORNERS = 1 << 19  # corner scores of the cells worked on together
_BLOCK_PIXELS = 1 << 16  # pixels blended together: the working set stays in the cache

Scores = NDArray[np.float32]
Mask = NDArray[Any]


def postprocess(scores: NDArray[Any], contract: Contract, placement: Placement) -> Mask:
    """One network output, CxHxW or HxWxC as the contract says, to an HxW mask of the source size."""
    if contract.output_kind == "labels":
        return _nearest(_as_mask(_label_map(scores, contract), contract), placement)
    planes = as_planes(scores, contract)
    rows, columns = axes(placement, *planes.shape[1:])
    return mask_of(planes, rows, columns, contract)


def as_planes(scores: NDArray[Any], contract: Contract) -> Scores:
    """CxHxW float32."""
    planes = scores.transpose(2, 0, 1) if contract.output_layout == "nhwc" else scores
    return np.ascontiguousarray(planes, np.float32)


def mask_of(planes: Scores, rows: Axis, columns: Axis, contract: Contract) -> Mask:
    """The mask at the pixels of two axes."""
    if contract.output_kind == "sigmoid":
        limit = np.full_like(planes, math.log(contract.threshold / (1 - contract.threshold)))
        foreground = np.concatenate([planes, limit])  # first wins ties: at the threshold is foreground
        return (1 - blended_argmax(foreground, rows, columns)).astype(contract.mask_dtype)
    return blended_argmax(planes, rows, columns).astype(contract.mask_dtype, copy=False)


def blended_argmax(scores: Scores, rows: Axis, columns: Axis) -> Mask:
    """Class of the greatest blended score for every pixel; the first wins ties."""
    labels = argmax(scores)
    mask = labels.take(columns.first, 1).take(rows.first, 0)
    cells = np.flatnonzero(mixed_cells(labels, rows, columns))
    step = max(_BLOCK_CORNERS // (4 * len(scores)), 1)
    for start in range(0, cells.size, step):
        _Cells(scores, labels, rows, columns, cells[start : start + step]).decide(mask)
    return mask


def argmax(scores: Scores) -> Mask:
    """Class of the greatest score, HxW; the first wins ties. Plane by plane: several times faster than numpy's."""
    labels = np.zeros(scores.shape[1:], np.uint8 if len(scores) <= 256 else np.uint16)
    best = scores[0].copy()
    better = np.empty(best.shape, np.bool_)
    for label in range(1, len(scores)):
        np.greater(scores[label], best, out=better)
        np.maximum(scores[label], best, out=best)
        np.copyto(labels, label, where=better, casting="unsafe")
    return labels


def mixed_cells(labels: Mask, rows: Axis, columns: Axis) -> NDArray[np.bool_]:
    """Cells that hold pixels and whose four corners do not share one label, (h + 1) x (w + 1)."""
    padded = np.pad(labels, 1, mode="edge")
    across = padded[:, 1:] != padded[:, :-1]
    down = padded[1:] != padded[:-1]
    mixed: NDArray[np.bool_] = across[1:] | across[:-1] | down[:, 1:] | down[:, :-1]
    mixed &= (np.diff(rows.starts) > 0)[:, None]
    mixed &= np.diff(columns.starts) > 0
    return mixed


class _Cells:
    """Some cells whose corners disagree: the classes that can win in each, and the blends that decide.

    Arrays are (..., cells), so that arithmetic runs over many cells at once.
    """

    def __init__(self, scores: Scores, labels: Mask, rows: Axis, columns: Axis, cells: NDArray[np.intp]) -> None:
        self._rows, self._columns = rows, columns
        height, width = labels.shape
        self._down, self._right = np.divmod(cells, width + 1)
        above, left = (self._down - 1).clip(0), (self._right - 1).clip(0)
        below, right = self._down.clip(max=height - 1), self._right.clip(max=width - 1)
        corners = np.stack([above * width + left, above * width + right, below * width + left, below * width + right])
        planes = scores.reshape(len(scores), -1)
        self._corners = planes.take(corners.ravel(), 1).reshape(len(scores), 4, -1).transpose(1, 0, 2)
        self._winners = labels.reshape(-1)[corners]

    def decide(self, mask: Mask) -> None:
        """Write the class of every pixel of the cells into the mask."""
        candidates = self._candidates()
        counts = candidates.sum(0)
        owners, classes = np.nonzero(candidates.T)
        first = np.searchsorted(owners, np.arange(counts.size))
        step = max(_BLOCK_PIXELS // (self._rows.cell_pixels * self._columns.cell_pixels), 1)
        for count in np.unique(counts):
            chosen = np.flatnonzero(counts == count)
            for start in range(0, chosen.size, step):
                some = chosen[start : start + step]
                self._decide_among(classes[first[some] + np.arange(count)[:, None]], some, mask)

    def _candidates(self) -> NDArray[np.bool_]:
        """Classes x cells: false for a class that is, at all four corners, below the winner of one corner or below the
        mean of the four winners. The greatest blend is nowhere less than either's."""
        cells = np.arange(self._winners.shape[1])
        rivals = [self._corners[:, winner, cells] for winner in self._winners]
        rivals.append((rivals[0] + rivals[1] + rivals[2] + rivals[3]) * np.float32(0.25))
        candidates = np.zeros(self._corners.shape[1:], np.bool_)
        candidates[self._winners, cells] = True
        beaten = np.zeros_like(candidates)
        for rival in rivals:
            below = self._corners[0] < rival[0]
            for corner in (1, 2, 3):
                below &= self._corners[corner] < rival[corner]
            beaten |= below
        candidates |= ~beaten
        return candidates

    def _decide_among(self, classes: NDArray[np.intp], cells: NDArray[np.intp], mask: Mask) -> None:
        """Blend the candidates (candidates x cells) over the cells' pixels; the first of the greatest wins."""
        y, wy = _pixels(self._rows, self._down[cells])
        x, wx = _pixels(self._columns, self._right[cells])
        corners = self._corners[:, classes, cells]
        if len(classes) == 2:
            lead = _blend(corners[:, 0] - corners[:, 1], wy, wx)
            winner = np.where(lead >= 0, *classes.astype(mask.dtype))
        else:
            winner = _greatest(corners, classes.astype(mask.dtype), wy, wx)
        mask.reshape(-1)[(y * mask.shape[1])[:, None] + x] = winner


def _pixels(axis: Axis, cells: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The pixels along one axis of each cell, and their weights; short cells repeat their last pixel."""
    offsets = np.arange(axis.cell_pixels)[:, None]
    at = np.minimum(axis.starts[cells] + offsets, axis.starts[cells + 1] - 1)
    return at, axis.weight[at]


def _greatest(corners: Scores, classes: Mask, wy: Scores, wx: Scores) -> Mask:
    """The class with the greatest blend, of several candidates."""
    best = _blend(corners[:, 0], wy, wx)
    winner = np.broadcast_to(classes[0], best.shape).copy()
    for label, values in zip(classes[1:], corners.swapaxes(0, 1)[1:], strict=True):
        value = _blend(values, wy, wx)
        better = value > best
        np.maximum(value, best, out=best)
        np.copyto(winner, label, where=better)
    return winner


def _blend(corners: Scores, wy: Scores, wx: Scores) -> Scores:
    """Corner scores (4 x cells) to the bilinear blend at (rows x columns x cells)."""
    upper_left, upper_right, lower_left, lower_right = corners
    above = upper_left + (upper_right - upper_left) * wx
    drop = lower_left + (lower_right - lower_left) * wx - above
    value: Scores = drop * wy[:, None]
    value += above
    return value


def _label_map(answer: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """HxW of an answer that is HxW, 1xHxW or HxWx1; where both ends are one wide, the layout says which is a side."""
    if answer.ndim == 2:
        return answer
    channel = 2 if contract.output_layout == "nhwc" else 0
    for axis in (channel, 2 - channel) if answer.ndim == 3 else ():
        if answer.shape[axis] == 1:
            return answer.take(0, axis)
    raise BackendError(
        f"the network answers {answer.shape} for a frame, labels are HxW, 1xHxW or HxWx1",
        hint="change output_name or output_kind in the contract, or give the graph's output a batch",
    )


def _as_mask(labels: NDArray[Any], contract: Contract) -> Mask:
    """In the mask's type. What that cannot hold becomes its largest number, which is no class, not another class."""
    dtype = np.dtype(contract.mask_dtype)
    if labels.dtype == dtype:
        return labels
    largest = np.iinfo(dtype).max
    mask = np.full(labels.shape, largest, dtype)
    np.copyto(mask, labels, where=(labels >= 0) & (labels <= largest), casting="unsafe")
    return mask


def _nearest(labels: Mask, placement: Placement) -> Mask:
    rows, columns = axes(placement, *labels.shape)
    return labels.take(columns.nearest, 1).take(rows.nearest, 0)
