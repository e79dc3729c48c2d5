"""Limits held against figures. What was not measured is not judged; NaN never passes."""

from dataclasses import dataclass
from typing import Literal

from stages.compare import FP16_MAX, MaskComparison, TensorComparison, share
from stages.config import Limits

Status = Literal["passed", "failed", "not judged"]


@dataclass(frozen=True)
class Check:
    """One limit held against one figure; `where` names the input or class that is to blame, or why nothing was."""

    name: str
    value: float | None
    limit: float
    status: Status
    where: str = ""

    def line(self) -> str:
        """For a person."""
        value = "nothing measured" if self.value is None else f"{self.value:.6g}"
        where = f" ({self.where})" if self.where else ""
        return f"{self.name} {value} (limit {self.limit:g}): {self.status}{where}"


@dataclass(frozen=True)
class Measured:
    """Everything measured of one hop that limits are held against."""

    masks: MaskComparison
    tensors: TensorComparison
    stress: TensorComparison
    stress_masks: MaskComparison
    batches: TensorComparison
    activations_peak: float | None = None
    """Largest magnitude inside the FP32 graph; known for graphs that cannot be run in half precision here."""


def checks(measured: Measured, limits: Limits, exact: bool, classes: tuple[str, ...]) -> list[Check]:
    """Every limit. `exact`: the hop computes in FP32, so nothing but the order of sums may differ."""
    relative_l2 = limits.max_relative_l2_fp32 if exact else limits.max_relative_l2
    return [
        *_mask_checks(measured.masks, limits, classes),
        at_most("relative_l2", measured.tensors.relative_l2, relative_l2, f"worst {measured.tensors.worst_at}"),
        _finite("non_finite", measured.tensors),
        at_most("fp16_range", _fp16_share(measured), limits.max_fp16_range, "share of 65504, the largest FP16 number"),
        *_stress_checks(measured, limits, exact),
        at_most("batch_relative_l2", _if_any(measured.batches), relative_l2, "the largest batch against single frames"),
    ]


def at_least(name: str, value: float | None, limit: float, where: str = "") -> Check:
    """A figure with a lower limit."""
    if value is None:
        return Check(name, None, limit, "not judged", "nothing was measured")
    return Check(name, value, limit, "passed") if value >= limit else Check(name, value, limit, "failed", where)


def at_most(name: str, value: float | None, limit: float, where: str = "") -> Check:
    """A figure with an upper limit."""
    if value is None:
        return Check(name, None, limit, "not judged", "nothing was measured")
    return Check(name, value, limit, "passed") if value <= limit else Check(name, value, limit, "failed", where)


def _mask_checks(masks: MaskComparison, limits: Limits, classes: tuple[str, ...]) -> list[Check]:
    inside_flips, inside = masks.flips - masks.band_flips, masks.pixels - masks.band_pixels
    drop = masks.iou_drop()
    lost = "" if drop is None else "the mean" if drop[1] < 0 else f"class '{classes[drop[1]]}'"
    flips = common_flips(masks, classes)
    return [
        at_least("agreement", share(masks.pixels - masks.flips, masks.pixels), limits.min_agreement, flips),
        at_most("flips_inside", share(inside_flips, inside), limits.max_flips_inside, flips),
        at_most("flips_boundary", share(masks.band_flips, masks.band_pixels), limits.max_flips_boundary),
        at_most("large_margin_flips", share(masks.large_flips, masks.pixels), limits.max_large_margin_flips),
        at_most("iou_drop", None if drop is None else drop[0], limits.max_iou_drop, lost),
    ]


def _stress_checks(measured: Measured, limits: Limits, exact: bool) -> list[Check]:
    """On stress inputs agreement says little, because margins may be tiny everywhere; a flip against a wide margin,
    a large error of the scores and what is no number still mean something."""
    masks, tensors = measured.stress_masks, measured.stress
    limit = limits.max_relative_l2_fp32 if exact else limits.max_stress_relative_l2
    worst = tensors.worst_relative_l2 if tensors.elements else None
    flips = share(masks.large_flips, masks.pixels)
    return [
        at_most("stress_relative_l2", worst, limit, f"worst {tensors.worst_at}"),
        at_most("stress_large_margin_flips", flips, limits.max_large_margin_flips),
        _finite("stress_non_finite", tensors),
    ]


def common_flips(masks: MaskComparison, classes: tuple[str, ...]) -> str:
    """The commonest change of class, in words."""
    if not masks.pairs.any():
        return ""
    names = (*classes, "no class")
    old, new = divmod(int(masks.pairs.argmax()), len(names))
    part = masks.pairs[old, new] / max(1, masks.class_pixels[old])
    return f"commonest: {part:.2%} of '{names[old]}' became '{names[new]}'"


def _finite(name: str, tensors: TensorComparison) -> Check:
    if not tensors.elements and not tensors.non_finite:
        return Check(name, None, 0.0, "not judged", "no scores were measured")
    where = f"{tensors.nan} NaN, {tensors.inf} Inf, first in {tensors.non_finite_at}"
    return at_most(name, float(tensors.non_finite), 0.0, where)


def _fp16_share(measured: Measured) -> float | None:
    shares = [measured.tensors.fp16_share, measured.stress.fp16_share]
    if measured.activations_peak is not None:
        shares.append(measured.activations_peak / FP16_MAX)
    known = [value for value in shares if value is not None]
    return max(known, default=None)


def _if_any(tensors: TensorComparison) -> float | None:
    return tensors.worst_relative_l2 if tensors.elements else None
