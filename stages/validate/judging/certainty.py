"""Whether a hop is as sure of its classes as it may be: its calibration error and the reference's, by labels."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract, SemanticContract
from segpipe.runtime.confidence import probability
from stages.measuring.reliability import Reliability
from stages.validate.hops.hop import Answered
from stages.validate.hops.inputs import Image
from stages.validate.hops.margins import blended_at

_MOST = 1 << 14  # labelled pixels of an image that are looked at, evenly spread


@dataclass
class Certainty:
    """Of one hop and the reference, on the same pixels."""

    reference: Reliability = field(default_factory=Reliability)
    hop: Reliability = field(default_factory=Reliability)

    def add(self, image: Image, reference: Answered, candidate: Answered, contract: FrameContract) -> None:
        """One labelled image; what gives no scores, or keeps only some of them, tells nothing."""
        if (
            not isinstance(contract, SemanticContract)
            or image.stress
            or image.labels is None
            or reference.scores is None
            or candidate.scores is None
        ):
            return
        labels = image.labels.reshape(-1)
        labelled = np.flatnonzero(labels < len(contract.classes))
        pixels = labelled[:: -(-labelled.size // _MOST) or 1]
        for sums, answered in ((self.reference, reference), (self.hop, candidate)):
            right = answered.mask.reshape(-1)[pixels] == labels[pixels]
            sums.add(_confidence(answered, image.frame.shape[:2], contract, pixels), right)

    @property
    def rise(self) -> float | None:
        """How much greater the hop's error is; None where nothing was labelled or scored."""
        if self.hop.error is None or self.reference.error is None:
            return None
        return self.hop.error - self.reference.error

    @property
    def words(self) -> str:
        """Both."""
        return "" if self.rise is None else f"{self.reference.error:.4f} became {self.hop.error:.4f}"


def _confidence(
    answered: Answered, frame_size: tuple[int, ...], contract: SemanticContract, pixels: NDArray[np.int64]
) -> NDArray[np.float32]:
    height, width = frame_size
    assert answered.scores is not None
    values = blended_at(answered.scores.astype(np.float32, copy=False), (height, width), contract, pixels)
    return probability(values, contract)
