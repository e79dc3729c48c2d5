"""Limits of being the same network for things: found again, where they were, as sure as before, from the same maps."""

from dataclasses import dataclass

from stages.measuring.things import ThingsComparison
from stages.validate.judging.checks import Check, at_least, at_most

_NO_THINGS = "the reference found no thing"
_NO_MAPS = "the network tells none of the maps that its rows are picked from"


@dataclass(frozen=True)
class ThingLimits:
    """What a hop may differ by. The defaults are those of a hop that computes in FP16 or TF32."""

    lost: int = 0
    """Rounding moves scores by a thousandth: nothing sure is lost by it."""
    extra: int = 0
    """Likewise."""
    mean_iou: float = 0.98
    """Of pairs. Rounding moves borders by a fraction of a pixel."""
    worst_iou: float = 0.8
    """A thing of a few pixels loses a tenth with one of them."""
    score_error: float = 0.02
    """A sigmoid turns a hundredth of its argument into a four hundredth at most."""
    box_error_px: float = 0.5
    """Of the network's input; a shift by one pixel is twice as much."""
    relative_l2: float = 0.008
    """Of the worst map of the worst frame: rounding gives 3e-4 to 3e-3, a head 1 % too strong 1e-2."""
    ap_drop: float = 0.005
    """Against the labels."""


HALF = ThingLimits()
"""Of FP16 and TF32."""
BF16 = ThingLimits(mean_iou=0.95, worst_iou=0.6, score_error=0.1, box_error_px=2.0, relative_l2=0.03, ap_drop=0.02)
"""Three bits less: eight times the rounding."""
FP32 = ThingLimits(mean_iou=0.999, worst_iou=0.95, score_error=1e-3, box_error_px=0.05, relative_l2=1e-4, ap_drop=0.001)
"""Another order of sums moves nothing that could be seen."""


def thing_checks(found: ThingsComparison, limits: ThingLimits) -> list[Check]:
    """Every limit, compared with what was measured."""
    scored = found.pairs > 0
    ious = (found.mean_iou, found.worst_iou if scored else None)
    errors = (found.largest_score_error, found.largest_box_error_px) if scored else (None, None)
    lost, extra = (float(found.lost), float(found.extra)) if found.frames else (None, None)
    worst = found.worst_map
    error = worst.worst_relative_l2 if worst.elements else None
    broken = float(worst.non_finite) if worst.pairs else None
    return [
        at_most("lost_things", lost, limits.lost, f"first in {found.lost_at}"),
        at_most("extra_things", extra, limits.extra, f"first in {found.extra_at}"),
        at_least("thing_iou", ious[0], limits.mean_iou, why_not=_NO_THINGS),
        at_least("worst_thing_iou", ious[1], limits.worst_iou, f"in {found.worst_iou_at}", _NO_THINGS),
        at_most("thing_scores", errors[0], limits.score_error, why_not=_NO_THINGS),
        at_most("thing_boxes_px", errors[1], limits.box_error_px, why_not=_NO_THINGS),
        at_most("map_relative_l2", error, limits.relative_l2, f"worst {worst.worst_at}", _NO_MAPS),
        at_most("map_non_finite", broken, 0.0, f"first in {worst.non_finite_at}", _NO_MAPS),
        at_most(
            "ap_drop", found.ap_drop(), limits.ap_drop, why_not="no labels, no things in them, or no faster-coco-eval"
        ),
    ]
