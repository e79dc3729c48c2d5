"""The gate's part of the semantic task: masks compared pixel by pixel, scores by distance, IoU with the labels."""

from functools import partial
from typing import Any

from numpy.typing import NDArray

from segpipe.contract.schema import SemanticContract
from stages.config.root import ValidateConfig
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.validate.hops.hop import Answered, Hop, margins_at
from stages.validate.judging.accuracy import hop_accuracy, reference_accuracy
from stages.validate.judging.checks import OF_SCORES, Check, Measured, Peak, Rules, checks


class SemanticGate:
    """Masks under one contract and the gate's settings."""

    def __init__(self, contract: SemanticContract, settings: ValidateConfig) -> None:
        self._contract, self._limits = contract, settings.limits
        self._shape = MaskShape(
            len(contract.classes), settings.boundary_px, settings.large_margin, contract.unscored_numbers
        )

    def nothing(self, peak: Peak | None) -> Measured:
        """No image yet."""
        return Measured(MaskComparison(self._shape), MaskComparison(self._shape), peak=peak)

    def truth(self, answered: Answered, labels: NDArray[Any] | None) -> Truth:
        """The reference's mask with its borders, its margins where it gives scores, and the labels."""
        known = partial(margins_at, answered.scores, answered.mask.shape, self._contract)
        return Truth.of(answered.mask, labels, None if answered.scores is None else known, self._shape)

    def fidelity(self, measured: Measured, hop: Hop) -> list[Check]:
        """Every limit on masks and, where the hop gives them, on scores."""
        held = checks(measured, Rules(self._limits, self._contract.classes, hop.precision))
        return [check for check in held if hop.gives_scores or check.name not in OF_SCORES]

    def accuracy(self, measured: Measured) -> list[Check]:
        """Mean IoU and the worst class."""
        return hop_accuracy(measured.masks, self._limits, self._contract.classes)

    def reference_accuracy(self, measured: Measured) -> list[Check]:
        """The same of the reference."""
        return reference_accuracy(measured.masks, self._limits, self._contract.classes)
