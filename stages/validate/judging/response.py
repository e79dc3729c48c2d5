"""Whether a hop sees what a resize leaves between whole pixel values, or rounds it away as 8-bit libraries do.

The same frame, resized and rounded beforehand, moves the reference's scores a little. A hop's must move along: one that
rounds by itself has seen that frame already. Rounding inside the network points elsewhere, so this shows what is
far below any limit on the scores' distance.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from stages.validate.hops.hop import Answered
from stages.validate.hops.inputs import RESIZED, Image, resized_beforehand
from stages.validate.judging.aside import set_aside

HEARD = 0.1
"""Least share of rounding inside the network that the frame's own must be, to be told from it."""
_Pair = tuple[NDArray[Any], NDArray[Any]]


@dataclass
class Response:
    """Of one hop, from the first image to its resized form."""

    follows: float | None = None
    """1: as far as the reference's scores, in their direction. None: not tried."""
    moved: float = 0.0
    """How far the reference's scores move, as a share of their length."""
    _first: _Pair | None = None
    _tried: bool = False

    def add(self, image: Image, reference: Answered, candidate: Answered, contract: FrameContract) -> None:
        """Look out for the two."""
        if not image.stress and not self._tried:
            self._tried = True
            if resized_beforehand(contract, image.frame) is not None:
                self._first = _pair(set_aside(reference), set_aside(candidate))
        elif image.stress and image.name == RESIZED and self._first is not None:
            self._compare(_pair(reference, candidate))
            self._first = None

    def _compare(self, second: _Pair | None) -> None:
        assert self._first is not None
        if second is None or second[0].shape != self._first[0].shape:
            return
        first, second = _wide(self._first), _wide(second)
        ours, theirs = (after - before for before, after in zip(first, second, strict=True))
        length, own = float(ours @ ours), float(first[0] @ first[0])
        if length and own and np.isfinite(theirs).all():
            self.follows, self.moved = float(theirs @ ours) / length, float(np.sqrt(length / own))


def _pair(reference: Answered, candidate: Answered) -> _Pair | None:
    """Scores of both, those pixels that the reference has."""
    ours: NDArray[Any] | None = reference.scores
    theirs: NDArray[Any] | None = candidate.scores
    if reference.kept is not None and theirs is not None:
        ours, theirs = reference.kept.values, reference.kept.of_candidate(theirs)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return None
    return ours, theirs


def _wide(pair: _Pair) -> _Pair:
    ours, theirs = (scores.reshape(-1).astype(np.float64) for scores in pair)
    return ours, theirs
