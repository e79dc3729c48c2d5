"""A hop asked again: the same frame twice, and batches beside single frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.runtime.backends.freed_memory import give_back
from stages.validate.hops.hop import Answered, Hop
from stages.validate.judging.adding import add_scores
from stages.validate.judging.aside import set_aside
from stages.validate.judging.checks import Measured

_EXPLAINS = 0.5  # another order of the answers must leave less than this share of the flips


@dataclass(frozen=True)
class Repeat:
    """What a second run of the same frame gave."""

    image: str
    differing_pixels: int
    differing_scores: int
    largest_difference: float

    @property
    def same(self) -> bool:
        """Byte for byte."""
        return not self.differing_pixels and not self.differing_scores


def answered_by(hop: Hop, frames: Sequence[NDArray[Any]]) -> list[Answered]:
    """An answer to each frame, of its size."""
    found = hop.answer(frames)
    wanted, given = [frame.shape[:2] for frame in frames], [answered.mask.shape for answered in found]
    if wanted != given:
        raise InputError(f"masks are {given} for frames of {wanted}", hint="report this as a bug")
    return found


def answered_twice(hop: Hop, frame: NDArray[Any]) -> Repeat:
    """Two runs of one frame."""
    return _repeat(answered_by(hop, [frame])[0], answered_by(hop, [frame])[0])


def add_batch(hop: Hop, frames: Sequence[NDArray[Any]], count: int, measured: Measured) -> tuple[int, ...]:
    """A batch of so many frames beside each alone. Returns whose answers they got where that is their own of none."""
    give_back()  # what single frames left in pieces is too small for a batch
    together = list(map(set_aside, answered_by(hop, list(islice(cycle(frames), count)))))
    alone = []
    for number, frame in enumerate(frames[:count]):
        answered = answered_by(hop, [frame])[0]
        alone.append(answered.mask)
        for beside in together[number :: len(frames)]:
            measured.batch_masks.add(answered.mask, beside.mask)
            add_scores(measured.batches, answered, beside, f"a batch of {count}")
    return _order(alone, [answered.mask for answered in together[: len(alone)]])


def _order(alone: Sequence[NDArray[Any]], together: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    """For each answer of a batch the frame that it fits; empty where that explains nothing."""
    flips = np.array([[int((mask != own).sum()) for own in alone] for mask in together])
    best = flips.argmin(1)
    if len({*best.tolist()}) < len(best) or not flips.min(1).sum() < _EXPLAINS * flips.trace():
        return ()
    return tuple(int(number) for number in best)


def _repeat(first: Answered, again: Answered) -> Repeat:
    pixels = int((first.mask != again.mask).sum())
    if first.scores is None or again.scores is None:
        return Repeat("the first image", pixels, 0, 0.0)
    different = ~((first.scores == again.scores) | (np.isnan(first.scores) & np.isnan(again.scores)))
    with np.errstate(invalid="ignore"):  # Inf - Inf
        largest = float(np.abs(first.scores.astype(np.float64) - again.scores).max(initial=0))
    return Repeat("the first image", pixels, int(different.sum()), largest)
