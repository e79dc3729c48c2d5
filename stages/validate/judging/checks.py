"""Limits compared with figures. Each passes, fails, or could not be judged and says why; NaN never passes."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from stages.config.root import Limits
from stages.measuring.bootstrap import LEAST
from stages.measuring.masks import Agreement, MaskComparison, share
from stages.measuring.tensors import FP16_MAX, TensorComparison
from stages.measuring.things import ThingsComparison
from stages.results.gate import Status
from stages.validate.judging.certainty import Certainty
from stages.validate.judging.response import HEARD, Response
from stages.validate.judging.rounding import Fitted, Rounding
from stages.validate.judging.rules import Rules

NO_SCORES, NO_IMAGES = "the reference gives no scores", "no images"
OF_SCORES = {
    "relative_l2", "non_finite", "stress_relative_l2", "stress_non_finite", "batch_relative_l2", "batch_non_finite",
    "resize_response", "calibration_rise",
}  # fmt: skip
"""Limits that mean nothing for a graph that keeps its scores inside."""
_NEEDED = {"agreement", "miou_drop"}
"""Limits without which a hop that has them is not judged, whatever else passed: masks on images are what is deployed,
and of those that are not to be equal only labels tell how good they are."""


class Judged(Protocol):
    """A check, or how the report keeps it."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Status: ...


@dataclass(frozen=True)
class Check:
    """One limit compared with one figure; `where` names the input or class that is to blame."""

    name: str
    value: float | None
    limit: float
    status: Status
    where: str = ""
    why_not: str = ""
    fitted: str = ""
    """What the limit was fitted to; empty where it is the setting's."""

    def line(self) -> str:
        """For a person."""
        limit = f"limit {self.limit:g}{f', {self.fitted}' if self.fitted else ''}"
        if self.value is None:
            return f"{self.name} ({limit}): not judged ({self.why_not})"
        where = f" ({self.where})" if self.where else ""
        return f"{self.name} {self.value:.6g} ({limit}): {self.status}{where}"


@dataclass(frozen=True)
class Peak:
    """The largest magnitude of what an FP16 graph holds in FP16, and the node and module that make it."""

    value: float
    where: str
    node: str = ""
    module: str = ""


@dataclass
class Measured:
    """Everything measured of one hop that limits are compared with."""

    masks: MaskComparison
    stress_masks: MaskComparison
    tensors: TensorComparison = field(default_factory=TensorComparison)
    stress: TensorComparison = field(default_factory=TensorComparison)
    batches: TensorComparison = field(default_factory=TensorComparison)
    batch_masks: Agreement = field(default_factory=Agreement)
    response: Response = field(default_factory=Response)
    certainty: Certainty = field(default_factory=Certainty)
    peak: Peak | None = None
    rounding: Rounding | None = None
    """What rounding alone does to the network; None where nothing is known of it."""
    things: ThingsComparison | None = None
    """Of networks that tell things one by one."""
    unanswered: str = ""
    """What kept the hop from answering an image; then nothing more was asked of it."""


def checks(measured: Measured, rules: Rules) -> list[Check]:
    """Every limit."""
    return [
        at_most("unanswered", float(bool(measured.unanswered)), 0.0, measured.unanswered),
        *_mask_checks(measured.masks, rules),
        *([_miou_drop(measured.masks, rules)] if rules.allowed.miou_drop else ()),
        *([_calibration_rise(measured.certainty, rules)] if rules.allowed.calibration_rise else ()),
        _relative_l2("relative_l2", measured.tensors, rules.relative_l2, NO_SCORES),
        _finite("non_finite", measured.tensors, NO_SCORES),
        *([_fp16_range(measured, rules.limits)] if rules.allowed.narrow else ()),
        *_stress_checks(measured, rules),
        _resize(measured, rules),
        *_batch_checks(measured, rules),
    ]


def verdict_of(held: Iterable[Judged]) -> Status:
    """Of a hop: one failed limit fails it; it passes only where its masks were compared on images.

    Other limits that could not be judged (no labels, no scores, stress switched off) leave it passed and are told.
    """
    statuses = {check.name: check.status for check in held}
    if "failed" in statuses.values():
        return "failed"
    needed = {statuses[name] for name in _NEEDED & statuses.keys()}
    return "passed" if needed == {"passed"} else "not judged"


def at_least(name: str, value: float | None, limit: float | Fitted, where: str = "", why_not: str = NO_IMAGES) -> Check:
    """A figure with a lower limit."""
    held = limit if isinstance(limit, Fitted) else Fitted(limit)
    if value is None:
        return _unjudged(name, held, why_not)
    return _judged(name, value, held, where if not value >= held.limit else None)


def at_most(name: str, value: float | None, limit: float | Fitted, where: str = "", why_not: str = NO_IMAGES) -> Check:
    """A figure with an upper limit."""
    held = limit if isinstance(limit, Fitted) else Fitted(limit)
    if value is None:
        return _unjudged(name, held, why_not)
    return _judged(name, value, held, where if not value <= held.limit else None)


def _judged(name: str, value: float, held: Fitted, where: str | None) -> Check:
    """`where` the failure is; None for a pass."""
    status: Status = "passed" if where is None else "failed"
    return Check(name, value, held.limit, status, where or "", fitted=held.words)


def _unjudged(name: str, held: Fitted, why_not: str) -> Check:
    return Check(name, None, held.limit, "not judged", why_not=why_not, fitted=held.words)


def _mask_checks(masks: MaskComparison, rules: Rules) -> list[Check]:
    names = rules.allowed.masks
    inside_flips, inside = masks.flips - masks.band_flips, masks.pixels - masks.band_pixels
    flips, worst = common_flips(masks, rules.classes), masks.worst_agreement if masks.images else None
    every_near, no_border = ("every pixel is near a boundary", "no boundaries") if masks.images else (NO_IMAGES,) * 2
    agreement, image = rules.least(names.agreement, "flips"), rules.least(names.image_agreement, "image_flips")
    most_inside = rules.most(names.flips_inside, "flips_inside")
    most_near = rules.most(names.flips_boundary, "flips_boundary")
    return [
        at_least("agreement", share(masks.pixels - masks.flips, masks.pixels), agreement, flips),
        at_least("image_agreement", worst, image, f"worst {masks.worst_at}"),
        at_most("flips_inside", share(inside_flips, inside), most_inside, flips, every_near),
        at_most("flips_boundary", share(masks.band_flips, masks.band_pixels), most_near, "", no_border),
        _large_margin_flips("large_margin_flips", masks, rules, NO_IMAGES),
        _iou_drop(masks, rules),
    ]


def _iou_drop(masks: MaskComparison, rules: Rules) -> Check:
    drop, limit = masks.iou_drop(), rules.named(rules.allowed.masks.iou_drop)
    if drop is None:
        return at_most("iou_drop", None, limit, why_not="no labels")
    value, index = drop
    return at_most("iou_drop", value, limit, f"class '{rules.classes[index]}', {masks.labelled_pixels(index)} pixels")


def _miou_drop(masks: MaskComparison, rules: Rules) -> Check:
    """The upper end of the 95 % interval: a few images on which it went well prove nothing."""
    limit, drop = rules.named(rules.allowed.miou_drop), masks.miou_drop()
    if drop is None:
        return at_most("miou_drop", None, limit, why_not=f"it takes {LEAST} labelled images")
    where = f"dropped by {drop.value:.4f}, 95 % interval {drop.low:.4f} to {drop.high:.4f}"
    return at_most("miou_drop", drop.high, limit, where)


def _calibration_rise(certainty: Certainty, rules: Rules) -> Check:
    """Whoever goes by the network's confidence goes by less where it is surer, or less sure, than it is right."""
    limit = rules.named(rules.allowed.calibration_rise)
    return at_most("calibration_rise", certainty.rise, limit, certainty.words, "no labels, or not all scores are kept")


def _large_margin_flips(name: str, masks: MaskComparison, rules: Rules, nothing: str) -> Check:
    flips = share(masks.large_flips, masks.pixels) if masks.has_margins else None
    limit = rules.named(rules.allowed.masks.large_margin_flips)
    return at_most(name, flips, limit, "", nothing if masks.has_margins else NO_SCORES)


def _stress_checks(measured: Measured, rules: Rules) -> list[Check]:
    """On stress inputs agreement says little, because margins may be tiny everywhere; a flip against a wide margin,
    a large error of the scores and what is no number still mean something."""
    masks, tensors = measured.stress_masks, measured.stress
    nothing = NO_SCORES if masks.images else "no stress inputs"
    return [
        _relative_l2("stress_relative_l2", tensors, rules.stress_relative_l2, nothing),
        _stress_margin_flips(masks, rules, nothing),
        _finite("stress_non_finite", tensors, nothing),
    ]


def _stress_margin_flips(masks: MaskComparison, rules: Rules, nothing: str) -> Check:
    name = "stress_large_margin_flips"
    if rules.allowed.miou_drop:
        limit = rules.named(rules.allowed.masks.large_margin_flips)
        return at_most(name, None, limit, why_not="8 bits hold what frames show, and these are none")
    return _large_margin_flips(name, masks, rules, nothing)


def _batch_checks(measured: Measured, rules: Rules) -> list[Check]:
    one_by_one, batches = "no batches above 1", measured.batches
    against, nothing = "batches against single frames", NO_SCORES if measured.batch_masks.pixels else one_by_one
    least = rules.least(rules.allowed.masks.agreement, "flips")
    return [
        at_least("batch_agreement", measured.batch_masks.share, least, against, one_by_one),
        _relative_l2("batch_relative_l2", batches, rules.relative_l2, nothing),
        _finite("batch_non_finite", batches, nothing),
    ]


def _resize(measured: Measured, rules: Rules) -> Check:
    """Only where the network's own rounding does not drown it."""
    response, limit = measured.response, rules.limits.min_resize_response
    if rules.allowed.miou_drop:
        return at_least("resize_response", None, limit, why_not="steps of 8 bits are larger")
    drowned = 0.0 if measured.rounding is None else measured.rounding.relative_l2 or 0.0
    if response.follows is None or not (rules.allowed.rounding or 0.0) * drowned * HEARD < response.moved:
        why_not = "no frame is resized" if response.follows is None else "the network's own rounding is larger"
        return at_least("resize_response", None, limit, why_not=why_not)
    return at_least("resize_response", response.follows, limit, "the resize looks rounded to whole pixel values")


def common_flips(masks: MaskComparison, classes: tuple[str, ...]) -> str:
    """The commonest change of class, in words."""
    if not masks.pairs.any():
        return ""
    names = (*classes, "no class")
    old, new = divmod(int(masks.pairs.argmax()), len(names))
    part = masks.pairs[old, new] / max(1, masks.class_pixels[old])
    return f"commonest: {part:.2%} of '{names[old]}' became '{names[new]}'"


def _relative_l2(name: str, tensors: TensorComparison, limit: Fitted, nothing: str) -> Check:
    """Of the worst input: among thousands a mean would hide it."""
    value = tensors.worst_relative_l2 if tensors.elements else None
    return at_most(name, value, limit, f"worst {tensors.worst_at}", "no finite scores" if tensors.pairs else nothing)


def _finite(name: str, tensors: TensorComparison, nothing: str) -> Check:
    value = float(tensors.non_finite) if tensors.pairs else None
    where = f"{tensors.nan} NaN, {tensors.inf} Inf, first in {tensors.non_finite_at}"
    if tensors.reference_non_finite:
        where += f"; the reference has {tensors.reference_non_finite}"
    return at_most(name, value, 0.0, where, nothing)


def _fp16_range(measured: Measured, limits: Limits) -> Check:
    """Of scores, and of activations where they were measured, as a share of what FP16 can hold."""
    scores = [tensors.fp16_share for tensors in (measured.tensors, measured.stress) if tensors.fp16_share is not None]
    shares = {"scores": max(scores)} if scores else {}
    if measured.peak is not None:
        shares[f"{measured.peak.where} gives {measured.peak.value:.4g}"] = measured.peak.value / FP16_MAX
    if not shares:
        return at_most("fp16_range", None, limits.max_fp16_range, why_not=NO_SCORES)
    where = max(shares, key=lambda name: shares[name])
    return at_most("fp16_range", shares[where], limits.max_fp16_range, f"{where}, FP16 ends at {FP16_MAX:.0f}")
