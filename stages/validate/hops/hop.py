"""What a hop is: something that answers frames with masks and scores. Light: any machine can judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import Precision
from segpipe.contract.schema import Contract
from segpipe.runtime.geometry import axes

_BLOCK = 1 << 14  # pixels blended at a time


@dataclass(frozen=True)
class Answered:
    """One frame's HxW mask and CxHxW scores at the network's stride (None where the network gives labels)."""

    mask: NDArray[Any]
    scores: NDArray[Any] | None


class Answer(Protocol):
    """Frames of any sizes to answers, in order; frames of one size go through the network as one batch."""

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]: ...


@dataclass(frozen=True)
class Hop:
    """One thing to be judged: an artifact of the run, on a backend and a device."""

    name: str
    stage: str
    artifact: str
    sha256: str
    backend: str
    device: str
    answer: Answer
    precision: Precision
    """What it computes in."""
    gives_scores: bool = True
    """Whether its scores are to be compared; the graph from frame to mask keeps them inside."""


@dataclass(frozen=True)
class NotRun:
    """An artifact that no hop could be made of, and why."""

    artifact: str
    sha256: str
    backend: str
    reason: str


def margins_at(
    scores: NDArray[Any] | None, frame_size: tuple[int, int], contract: Contract, pixels: NDArray[np.int64]
) -> NDArray[np.float64]:
    """At flat source pixels: how far the best class leads the second, in standard deviations of the scores."""
    if scores is None or not pixels.size:
        return np.zeros(pixels.size)
    spread = max(float(np.std(scores, dtype=np.float64)), 1e-12)
    placement = contract.place(*frame_size)
    rows, columns = axes(placement, *scores.shape[1:])
    leads = []
    for start in range(0, pixels.size, _BLOCK):
        y, x = np.divmod(pixels[start : start + _BLOCK], frame_size[1])
        wy, wx = rows.weight[y], columns.weight[x]
        top, bottom = rows.first[y], rows.second[y]
        left, right = columns.first[x], columns.second[x]
        above = scores[:, top, left] * (1 - wx) + scores[:, top, right] * wx
        below = scores[:, bottom, left] * (1 - wx) + scores[:, bottom, right] * wx
        leads.append(_lead(above * (1 - wy) + below * wy, contract))
    return np.concatenate(leads) / spread


def _lead(blended: NDArray[Any], contract: Contract) -> NDArray[np.float64]:
    if contract.limit is not None:
        return np.abs(blended[0] - contract.limit).astype(np.float64)
    best = np.partition(blended, -2, axis=0)[-2:]
    return (best[1] - best[0]).astype(np.float64)
