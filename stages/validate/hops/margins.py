"""By how much a network decides for a class: the lead of the best over the second, at pixels of the source frame."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.runtime.geometry import axes

_BLOCK = 1 << 14  # pixels blended at a time


def margins_at(
    scores: NDArray[Any] | None, frame_size: tuple[int, int], contract: Contract, pixels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """At flat source pixels: how far the best class leads the second, in standard deviations of the scores."""
    if scores is None or not pixels.size:
        return np.zeros(pixels.size)
    spread = max(float(np.std(scores, dtype=np.float64)), 1e-12)
    blocks = (pixels[start : start + _BLOCK] for start in range(0, pixels.size, _BLOCK))
    return (
        np.concatenate([_lead(blended_at(scores, frame_size, contract, block), contract) for block in blocks]) / spread
    )


def blended_at(
    scores: NDArray[Any], frame_size: tuple[int, int], contract: Contract, pixels: NDArray[np.int64]
) -> NDArray[Any]:
    """Every channel's score at flat source pixels, channels first."""
    rows, columns = axes(contract.place(*frame_size), *scores.shape[1:])
    y, x = np.divmod(pixels, frame_size[1])
    wy, wx = rows.weight[y], columns.weight[x]
    top, bottom = rows.first[y], rows.second[y]
    left, right = columns.first[x], columns.second[x]
    above = scores[:, top, left] * (1 - wx) + scores[:, top, right] * wx
    below = scores[:, bottom, left] * (1 - wx) + scores[:, bottom, right] * wx
    blended: NDArray[Any] = above * (1 - wy) + below * wy
    return blended


def _lead(blended: NDArray[Any], contract: Contract) -> NDArray[np.float64]:
    if contract.limit is not None:
        return np.abs(blended[0] - contract.limit).astype(np.float64)
    best = np.partition(blended, -2, axis=0)[-2:]
    return (best[1] - best[0]).astype(np.float64)
