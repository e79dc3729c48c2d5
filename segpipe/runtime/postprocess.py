"""Network output to masks on the CPU: bilinear upsampling to the source frame and argmax in one step.

Between four neighbouring score vectors that share their argmax every bilinear blend has that argmax too, so only the
cells on class borders need arithmetic. Full-resolution scores never exist.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract import Contract, Placement

_BLOCK = 1 << 15  # pixels blended at a time: its working set stays in the cache


@dataclass(frozen=True)
class Axis:
    """For each source pixel along one axis: its two neighbours in the scores, and the weight of the second."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: NDArray[np.float32]
    nearest: NDArray[np.int64]


def postprocess(scores: NDArray[Any], contract: Contract, placement: Placement) -> NDArray[Any]:
    """One network output, CxHxW or HxWxC as the contract says, to an HxW mask of the source size."""
    if contract.output_kind == "labels":
        return _nearest(np.squeeze(scores), contract, placement)
    if contract.output_layout == "nhwc":
        scores = scores.transpose(2, 0, 1)
    scores = np.ascontiguousarray(scores, np.float32)
    if contract.output_kind == "sigmoid":
        limit = np.full_like(scores, math.log(contract.threshold / (1 - contract.threshold)))
        foreground = np.concatenate([scores, limit])  # first wins ties: at the threshold is foreground
        return (1 - blended_argmax(foreground, placement)).astype(contract.mask_dtype)
    return blended_argmax(scores, placement).astype(contract.mask_dtype, copy=False)


def blended_argmax(scores: NDArray[np.float32], placement: Placement) -> NDArray[Any]:
    """Class of the greatest blended score for every source pixel; the first wins ties."""
    classes, height, width = scores.shape
    rows, columns = axes(placement, height, width)
    labels = scores.argmax(0).astype(np.uint8 if classes <= 256 else np.uint16)
    mask = labels[rows.first[:, None], columns.first]
    mixed = _mixed_cells(labels)[rows.first[:, None], columns.first]
    pixels = np.flatnonzero(mixed)
    flat = mask.reshape(-1)
    for start in range(0, pixels.size, _BLOCK):
        block = pixels[start : start + _BLOCK]
        flat[block] = _blend(scores, rows, columns, np.divmod(block, mask.shape[1]))
    return mask


def axes(placement: Placement, height: int, width: int) -> tuple[Axis, Axis]:
    """Rows and columns: source pixel centre -> resized frame -> canvas -> scores of this size."""
    return _axis(placement, 0, height), _axis(placement, 1, width)


def _axis(placement: Placement, axis: int, length: int) -> Axis:
    centres = np.arange(placement.source[axis]) + 0.5
    on_canvas = centres * (placement.resized[axis] / placement.source[axis]) + placement.offset[axis]
    in_scores = on_canvas * (length / placement.canvas[axis])
    position = np.clip(in_scores - 0.5, 0, length - 1)
    first = position.astype(np.int64)
    return Axis(
        first=first,
        second=np.minimum(first + 1, length - 1),
        weight=(position - first).astype(np.float32),
        nearest=np.minimum(in_scores.astype(np.int64), length - 1),
    )


def _mixed_cells(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Cells (named by their upper left corner) whose four corners do not share one label."""
    mixed = np.zeros(labels.shape, np.bool_)
    across = labels[:, 1:] != labels[:, :-1]
    down = labels[1:] != labels[:-1]
    mixed[:, :-1] |= across
    mixed[:-1, :-1] |= across[1:]
    mixed[:-1] |= down
    mixed[:-1, :-1] |= down[:, 1:]
    return mixed


def _blend(
    scores: NDArray[np.float32], rows: Axis, columns: Axis, at: tuple[NDArray[np.int64], NDArray[np.int64]]
) -> NDArray[Any]:
    """Class of the greatest bilinear blend at the given source pixels."""
    y, x = at
    width = scores.shape[2]
    upper, lower = rows.first[y] * width, rows.second[y] * width
    left, right = columns.first[x], columns.second[x]
    wy, wx = rows.weight[y], columns.weight[x]
    corners = (upper + left, upper + right, lower + left, lower + right)
    best = np.full(y.size, -np.inf, np.float32)
    winner = np.zeros(y.size, np.uint16)
    for label, plane in enumerate(scores.reshape(scores.shape[0], -1)):
        a, b, c, d = (plane[corner] for corner in corners)
        above, below = a + (b - a) * wx, c + (d - c) * wx
        value = above + (below - above) * wy
        better = value > best
        best[better] = value[better]
        winner[better] = label
    return winner


def _nearest(labels: NDArray[Any], contract: Contract, placement: Placement) -> NDArray[Any]:
    labels = np.atleast_2d(labels)
    rows, columns = axes(placement, *labels.shape)
    return labels[rows.nearest[:, None], columns.nearest].astype(contract.mask_dtype)
