"""How sure the network is of the mask: blends every class at every pixel, a block of rows at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.runtime.geometry import Axis, axes
from segpipe.runtime.postprocess import as_planes

_BLOCK_VALUES = 1 << 22  # blended scores that exist at a time


def confidence(scores: NDArray[Any], contract: Contract, placement: Placement) -> NDArray[np.float32]:
    """HxW: the winning class's softmax probability of the blended scores (or what `output_kind` makes of them)."""
    planes = as_planes(scores, contract)
    rows, columns = axes(placement, *planes.shape[1:])
    height, width = placement.source
    answer = np.empty((height, width), np.float32)
    step = max(_BLOCK_VALUES // (len(planes) * width), 1)
    for start in range(0, height, step):
        block = slice(start, start + step)
        answer[block] = probability(_blend(planes, rows, columns, block), contract)
    return answer


def probabilities(scores: NDArray[Any], contract: Contract, placement: Placement) -> NDArray[np.float32]:
    """CxHxW: every class's probability of the blended scores; of two classes of one channel first 1 - p, then p.

    `scores` are CxHxW, whatever layout the network has.
    """
    rows, columns = axes(placement, *scores.shape[1:])
    answer = np.empty((len(contract.classes), *placement.source), np.float32)
    step = max(_BLOCK_VALUES // (len(scores) * placement.source[1]), 1)
    for start in range(0, placement.source[0], step):
        block = slice(start, start + step)
        answer[:, block] = _shares(_blend(scores, rows, columns, block), contract)
    return answer


def _blend(planes: NDArray[np.float32], rows: Axis, columns: Axis, block: slice) -> NDArray[np.float32]:
    wy, wx = rows.weight[block, None], columns.weight
    upper, lower = planes.take(rows.first[block], 1), planes.take(rows.second[block], 1)
    lines = upper + (lower - upper) * wy
    left, right = lines.take(columns.first, 2), lines.take(columns.second, 2)
    blended: NDArray[np.float32] = left + (right - left) * wx
    return blended


def probability(values: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """Of the winning class, of blended scores with the classes first, which are overwritten."""
    if contract.limit is not None:
        certain = _foreground(values[0], contract)
        return np.where(values[0] >= contract.limit, certain, 1 - certain)
    best: NDArray[np.float32] = values.max(0)
    if contract.output_kind == "probabilities":
        return best
    values -= best
    np.exp(values, out=values)
    return 1 / values.sum(0)


def _shares(values: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    if contract.limit is not None:
        certain = _foreground(values[0], contract)
        return np.stack([1 - certain, certain])
    if contract.output_kind == "probabilities":
        return values
    values -= values.max(0)
    np.exp(values, out=values)
    values /= values.sum(0)
    return values


def _foreground(values: NDArray[np.float32], contract: Contract) -> NDArray[np.float32]:
    """Of one channel, as a probability."""
    return _sigmoid(values) if contract.output_kind == "sigmoid" else values


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-values.clip(-80, 80)))
