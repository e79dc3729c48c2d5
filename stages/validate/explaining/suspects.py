"""Why a candidate may differ: the classic mistakes of deployment, recognised by what they do to masks and scores."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import SegpipeError
from segpipe.metrics import Confusion, scores
from stages.measuring.masks import MaskComparison
from stages.validate.judging.judge import HopState, Seen

_EXPLAINS = 0.5  # a suspicion must leave less than this share of the flips
_EXCHANGED = 0.6  # share of a class's pixels that must have become the other class
_GAIN = 2e-3  # FP16 rounding leaves the gain within 1e-4 of 1
_SHIFTS = tuple((dy, dx) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2) if (dy, dx) != (0, 0))


def suspect(state: HopState, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What a failed hop's figures look like, in words; empty when nothing fits."""
    found = [*_exchanged(state.measured.masks, classes), _gain(state)]
    if state.worst is not None:
        found += [_shifted(state.worst), _swapped_channels(state, state.worst)]
    return tuple(text for text in found if text)


def suspect_labels(confusion: Confusion) -> str:
    """Whether the labels look shifted: another diagonal of the confusion matrix fits better."""
    own = _mean_iou(confusion)
    for step in (1, -1):
        shifted = _mean_iou(np.roll(confusion, -step, axis=0))
        if shifted > max(2 * own, 0.3):
            return f"the labels look shifted by {step:+d} class: so counted, the mIoU is {shifted:.3f}, not {own:.3f}"
    return ""


def _exchanged(masks: MaskComparison, classes: tuple[str, ...]) -> list[str]:
    """Pairs of classes that became each other."""
    became = masks.pairs / np.maximum(masks.class_pixels, 1)[:, None]
    return [
        f"classes '{classes[one]}' and '{classes[other]}' look exchanged: {became[one, other]:.0%} and "
        f"{became[other, one]:.0%} of their pixels became the other"
        for one in range(len(classes))
        for other in range(one + 1, len(classes))
        if min(became[one, other], became[other, one]) > _EXCHANGED
    ]


def _gain(state: HopState) -> str:
    """Scores that are the reference's times a factor."""
    tensors = state.measured.tensors
    gain, relative = tensors.gain, tensors.relative_l2
    if gain is None or relative is None or not abs(gain - 1) > _GAIN:
        return ""
    explained = abs(gain - 1) / relative if relative else 0.0
    if not explained > 1 - _EXPLAINS:
        return ""
    return f"scores look scaled by {gain:.4f}: a weight or a normalisation differs by a factor"


def _shifted(worst: Seen) -> str:
    """A mask that fits better a pixel or two aside; the strip that leaves the image is not counted."""
    ours, theirs = worst.reference.mask, worst.candidate.mask
    if min(ours.shape) < 9 or not worst.flips.count:
        return ""
    here = int((_moved(ours, 0, 0) != _moved(theirs, 0, 0)).sum())
    flips = {shift: int((_moved(ours, 0, 0) != _moved(theirs, *shift)).sum()) for shift in _SHIFTS}
    best = min(flips, key=lambda shift: (flips[shift], math.hypot(*shift)))
    if not flips[best] < _EXPLAINS * here:
        return ""
    return (
        f"the mask looks shifted by {best[0]} rows and {best[1]} columns ({worst.image.name}: {here} flips, "
        f"{flips[best]} when moved back): check resize, padding and align_corners"
    )


def _moved(mask: NDArray[Any], dy: int, dx: int) -> NDArray[Any]:
    """The inner part of a mask, seen from (dy, dx) aside."""
    height, width = mask.shape
    return mask[2 + dy : height - 2 + dy, 2 + dx : width - 2 + dx]


def _swapped_channels(state: HopState, worst: Seen) -> str:
    """A candidate that agrees once red and blue are exchanged."""
    if worst.image.frame.shape[2] != 3:
        return ""
    try:
        again = state.hop.answer([np.ascontiguousarray(worst.image.frame[:, :, ::-1])])[0]
    except SegpipeError:
        return ""
    flips = int((again.mask != worst.reference.mask).sum())
    if not flips < _EXPLAINS * worst.flips.count:
        return ""
    return (
        f"red and blue look exchanged: {worst.image.name} has {worst.flips.count} flips, {flips} when passed as "
        "BGR; check channel_order"
    )


def _mean_iou(confusion: Confusion) -> float:
    value = scores(confusion).mean_iou
    return 0.0 if math.isnan(value) else value
