"""What a hop is: something that answers frames with masks and scores. Light: any machine can judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import Precision
from segpipe.id_maps import classes_in
from segpipe.instances import Instances
from stages.validate.hops.kept import Kept


@dataclass(frozen=True)
class Answered:
    """One frame's HxW mask and CxHxW scores at the network's stride (None where the network gives labels)."""

    mask: NDArray[Any]
    scores: NDArray[Any] | None
    kept: Kept | None = None
    """What a stored reference has in place of large scores."""
    things: Instances | None = None
    """What was found one by one, by networks that do; `mask` is then the class map made of it, and `scores` are the
    maps that it was picked from, one behind the other."""

    @property
    def gives_scores(self) -> bool:
        """Whether there is anything to compare scores with."""
        return self.scores is not None or self.kept is not None


def of_things(found: Instances) -> Answered:
    """An answer of a network that tells things one by one; 255 in its class map is no class."""
    dense = [*found.dense.values()]
    if len({values.shape[1:] for values in dense}) > 1:
        dense = [values.reshape(-1, 1, 1) for values in dense]
    maps = np.concatenate(dense) if dense else None
    return Answered(classes_in(found.panoptic()), maps, things=found)


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
