"""What a hop is held to: the settings of its precision, tightened to what rounding does to its network."""

from dataclasses import dataclass

from segpipe.artifacts import Precision
from stages.config.root import Limits
from stages.validate.judging.rounding import Fitted, Rounding, fitted


@dataclass(frozen=True)
class MaskLimits:
    """Names in `validate.limits` of what masks may differ by."""

    agreement: str = "min_agreement"
    image_agreement: str = "min_image_agreement"
    flips_inside: str = "max_flips_inside"
    flips_boundary: str = "max_flips_boundary"
    large_margin_flips: str = "max_large_margin_flips"
    iou_drop: str = "max_iou_drop"


_BF16_MASKS = MaskLimits(
    "min_agreement_bf16",
    "min_image_agreement_bf16",
    "max_flips_inside_bf16",
    "max_flips_boundary_bf16",
    "max_large_margin_flips_bf16",
    "max_iou_drop_bf16",
)


@dataclass(frozen=True)
class Allowed:
    """Names in `validate.limits` of what a precision may differ by, and whether its range is narrow."""

    relative_l2: str
    stress_relative_l2: str
    masks: MaskLimits = MaskLimits()
    narrow: bool = False
    """Values may leave its range, so their size has a limit too."""
    rounding: float | None = 1.0
    """How much its rounding is of FP16's; None: too little to fit limits to, or of another kind."""
    miou_drop: str = ""
    """Name of the limit that the upper end of the drop in mIoU has, where steps are so coarse that only labels tell."""
    calibration_rise: str = ""
    """Name of the limit that the rise of the calibration error has, likewise."""


_EIGHT_BITS = Allowed(
    "max_relative_l2_int8",
    "max_stress_relative_l2_int8",
    MaskLimits(
        "min_agreement_int8",
        "min_image_agreement_int8",
        "max_flips_inside_int8",
        "max_flips_boundary_int8",
        "max_large_margin_flips_int8",
        "max_iou_drop_int8",
    ),
    rounding=None,
    miou_drop="max_miou_drop_int8",
    calibration_rise="max_calibration_rise_int8",
)

ALLOWED: dict[Precision, Allowed] = {
    "fp32": Allowed("max_relative_l2_fp32", "max_relative_l2_fp32", rounding=None),  # only the order of sums may differ
    "tf32": Allowed("max_relative_l2", "max_stress_relative_l2"),  # as many digits as FP16
    "fp16": Allowed("max_relative_l2", "max_stress_relative_l2", narrow=True),
    "bf16": Allowed(  # the range of FP32, three bits less than FP16
        "max_relative_l2_bf16", "max_stress_relative_l2_bf16", _BF16_MASKS, rounding=8.0
    ),
    "fp8": _EIGHT_BITS,
    "int8": _EIGHT_BITS,
}


_ISLANDS = "`segpipe run RUN --auto-islands` keeps in FP32 what needs it"


@dataclass(frozen=True)
class Rules:
    """What a hop is held to: limits of its precision, tightened to what rounding does to this network."""

    limits: Limits
    classes: tuple[str, ...]
    precision: Precision
    rounding: Rounding | None = None

    @property
    def allowed(self) -> Allowed:
        """The row of its precision."""
        return ALLOWED[self.precision]

    @property
    def relative_l2(self) -> Fitted:
        """Of scores on images. Where honest FP16 would not keep it, with what to do."""
        held = self._fitted(self.named(self.allowed.relative_l2), "relative_l2")
        own = None if self.rounding is None else self.rounding.relative_l2
        if own is None or not self.allowed.narrow or not own > held.limit:
            return held
        return Fitted(held.limit, f"FP16's rounding alone gives {own:.3g}: {_ISLANDS}")

    @property
    def stress_relative_l2(self) -> Fitted:
        """Of scores on stress inputs."""
        return self._fitted(self.named(self.allowed.stress_relative_l2), "stress_relative_l2")

    def most(self, setting: str, name: str) -> Fitted:
        """The largest share of flips, fitted to those of rounding."""
        return self._fitted(self.named(setting), name)

    def least(self, setting: str, name: str) -> Fitted:
        """The smallest agreement, likewise."""
        found = self._fitted(1 - self.named(setting), name)
        return Fitted(1 - found.limit, f"flips {found.words}") if found.words else Fitted(self.named(setting))

    def named(self, setting: str) -> float:
        """A limit as it is set."""
        return float(getattr(self.limits, setting))

    def _fitted(self, largest: float, name: str) -> Fitted:
        if self.allowed.rounding is None:
            return Fitted(largest)
        return fitted(largest, self.rounding, name, self.limits.rounding_factor * self.allowed.rounding)
