"""What a stored reference keeps of large scores: enough to judge by, at a thirtieth of the size."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from stages.measuring.masks import MARGIN_EDGES
from stages.validate.hops.margins import margins_at

WHOLE = 1 << 16
"""Scores of so many numbers and fewer are kept as they are; of more, about so many."""
_FINEST, _DECADES, _RUNGS = 1e-5, 6, 192  # a margin is kept to 4 %, from 1e-5 to 10 spreads


@dataclass(frozen=True)
class Kept:
    """Every `step`-th pixel of CxHxW scores, and at each pixel of the frame how far the best class leads."""

    shape: tuple[int, ...]
    step: int
    values: NDArray[Any]
    codes: NDArray[np.uint8]
    """Margins by their place on a ladder of powers; 0 is below it, and what is no number counts as wide."""

    @classmethod
    def of(cls, scores: NDArray[Any], frame_size: tuple[int, int], contract: Contract, large_margin: float) -> "Kept":
        """Reduce scores. `large_margin` is a rung: a margin stays on its side."""
        step = _step(scores.shape)
        margins = margins_at(scores, frame_size, contract, np.arange(frame_size[0] * frame_size[1]))
        codes = np.searchsorted(_ladder(large_margin), np.nan_to_num(margins, nan=np.inf), "left")
        return cls(scores.shape, step, _sample(scores, step), codes.astype(np.uint8).reshape(frame_size))

    @classmethod
    def without_margins(cls, scores: NDArray[Any], frame_size: tuple[int, int]) -> "Kept":
        """Of maps in which no class leads: no margin is known at any pixel."""
        step = _step(scores.shape)
        return cls(scores.shape, step, _sample(scores, step), np.zeros(frame_size, np.uint8))

    def of_candidate(self, scores: NDArray[Any]) -> NDArray[Any]:
        """The same pixels of another network's scores; all of them where they have another shape."""
        return _sample(scores, self.step) if scores.shape == self.shape else scores

    def margins_at(self, pixels: NDArray[np.int64], large_margin: float) -> NDArray[np.float64]:
        """At flat source pixels, to the middle of a rung."""
        rungs = _ladder(large_margin)
        values = np.concatenate([[0.0], np.sqrt(rungs[:-1] * rungs[1:]), [1.1 * rungs[-1]]])
        found: NDArray[np.float64] = values.take(self.codes.reshape(-1)[pixels], mode="clip")
        return found


def _step(shape: tuple[int, ...]) -> int:
    """No divisor of the width, so that the sample walks through all columns."""
    step = math.ceil(math.prod(shape) / WHOLE)
    while math.gcd(step, shape[-1]) > 1:
        step += 1
    return step


def _sample(scores: NDArray[Any], step: int) -> NDArray[Any]:
    return np.ascontiguousarray(scores.reshape(scores.shape[0], -1)[:, ::step])


def _ladder(large_margin: float) -> NDArray[np.float64]:
    """Below 256 rungs, the edges of the histogram and the large margin among them."""
    powers = _FINEST * 10 ** (np.arange(_RUNGS) * _DECADES / _RUNGS)
    return np.unique([*powers, *(edge for edge in MARGIN_EDGES if edge), large_margin])
