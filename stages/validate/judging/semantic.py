"""The gate's part of the semantic task: masks compared pixel by pixel, scores by distance, IoU with the labels."""

from functools import partial
from typing import Any

from numpy.typing import NDArray

from segpipe.contract.schema import SemanticContract
from stages.config.root import ValidateConfig
from stages.measuring.masks import Margins, MaskComparison, MaskShape, Truth
from stages.validate.hops.hop import Answered, Hop
from stages.validate.hops.margins import margins_at
from stages.validate.judging.accuracy import hop_accuracy, reference_accuracy
from stages.validate.judging.checks import OF_SCORES, Check, Measured, Peak, checks
from stages.validate.judging.rules import Rules

_QUIETEST = 0.1
"""Root mean square of probabilities. One channel decides at about half; a picture without foreground has next to 0."""


class SemanticGate:
    """Masks under one contract and the gate's settings."""

    def __init__(self, contract: SemanticContract, settings: ValidateConfig) -> None:
        self._contract, self._limits = contract, settings.limits
        self._quietest = _QUIETEST if contract.output_kind == "probabilities" else 0.0
        self._shape = MaskShape(
            len(contract.classes), settings.boundary_px, settings.large_margin, contract.unscored_numbers
        )

    def nothing(self, peak: Peak | None) -> Measured:
        """No image yet."""
        measured = Measured(MaskComparison(self._shape), MaskComparison(self._shape), peak=peak)
        for tensors in (measured.tensors, measured.stress, measured.batches):
            tensors.quietest = self._quietest
        return measured

    def truth(self, answered: Answered, labels: NDArray[Any] | None) -> Truth:
        """The reference's mask with its borders, its margins where it gives scores, and the labels."""
        known: Margins = partial(margins_at, answered.scores, answered.mask.shape, self._contract)
        if answered.kept is not None:
            known = partial(answered.kept.margins_at, large_margin=self._shape.large_margin)
        return Truth.of(answered.mask, labels, known if answered.gives_scores else None, self._shape)

    def fidelity(self, measured: Measured, hop: Hop) -> list[Check]:
        """Every limit on masks and, where the hop gives them, on scores."""
        held = checks(measured, self.rules(measured, hop))
        return [check for check in held if hop.gives_scores or check.name not in OF_SCORES]

    def rules(self, measured: Measured, hop: Hop) -> Rules:
        """What a hop of its precision is held to, on the images that were measured."""
        return Rules(self._limits, self._contract.classes, hop.precision, measured.rounding)

    def accuracy(self, measured: Measured) -> list[Check]:
        """Mean IoU and the worst class."""
        return hop_accuracy(measured.masks, self._limits, self._contract.classes)

    def reference_accuracy(self, measured: Measured) -> list[Check]:
        """The same of the reference."""
        return reference_accuracy(measured.masks, self._limits, self._contract.classes)
