"""The gate for things: class maps and maps compared as everywhere, things matched one by one."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from segpipe.artifacts import Precision
from segpipe.contract.schema import InstanceContract
from segpipe.id_maps import classes_in
from stages.config.root import ValidateConfig
from stages.measuring.masks import MaskComparison, MaskShape, Truth
from stages.measuring.things import ThingsComparison
from stages.validate.hops.hop import Answered, Hop
from stages.validate.judging.accuracy import hop_accuracy, reference_accuracy
from stages.validate.judging.checks import OF_SCORES, Check, Measured, Peak, checks
from stages.validate.judging.rules import Rules
from stages.validate.judging.things import BF16, FP32, HALF, ThingLimits, thing_checks

_LIMITS: dict[Precision, ThingLimits] = {"fp32": FP32, "tf32": HALF, "fp16": HALF, "bf16": BF16}


@dataclass(frozen=True)
class ThingsTruth(Truth):
    """One image as the reference sees it, with the id map of what is there."""

    ids: NDArray[Any] | None = None


class InstanceGate:
    """Things under one contract and the gate's settings."""

    def __init__(self, contract: InstanceContract, settings: ValidateConfig) -> None:
        self._contract, self._limits = contract, settings.limits
        self._shape = MaskShape(len(contract.classes), settings.boundary_px, settings.large_margin)

    def nothing(self, peak: Peak | None) -> Measured:
        """No image yet."""
        return Measured(MaskComparison(self._shape), MaskComparison(self._shape), peak=peak, things=ThingsComparison())

    def truth(self, answered: Answered, labels: NDArray[Any] | None) -> ThingsTruth:
        """The reference's class map with its borders, and the labels, which are an id map."""
        classes = None if labels is None else classes_in(labels)
        return ThingsTruth(**vars(Truth.of(answered.mask, classes, None, self._shape)), ids=labels)

    def fidelity(self, measured: Measured, hop: Hop) -> list[Check]:
        """Every limit on class maps, on the maps that rows are picked from, and on things."""
        held = checks(measured, self.rules(measured, hop))
        kept = [check for check in held if hop.gives_scores or check.name not in OF_SCORES]
        assert measured.things is not None
        return [*kept, *thing_checks(measured.things, _LIMITS[hop.precision])]

    def rules(self, measured: Measured, hop: Hop) -> Rules:
        """What a hop of its precision is held to, on the images that were measured."""
        return Rules(self._limits, self._contract.classes, hop.precision, measured.rounding)

    def accuracy(self, measured: Measured) -> list[Check]:
        """Mean IoU of the class map, and its worst class."""
        return hop_accuracy(measured.masks, self._limits, self._contract.classes)

    def reference_accuracy(self, measured: Measured) -> list[Check]:
        """The same of the reference."""
        return reference_accuracy(measured.masks, self._limits, self._contract.classes)
