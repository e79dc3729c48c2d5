"""Why a candidate may differ: the classic mistakes of deployment, recognised by what they do to masks and scores."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import AnyContract, Contract
from segpipe.errors import SegpipeError
from segpipe.metrics import Confusion, scores
from stages.measuring.masks import MaskComparison
from stages.measuring.tensors import TensorComparison
from stages.validate.explaining.retrying import retried
from stages.validate.judging.again import answered_by
from stages.validate.judging.judge import HopState, Seen

_EXPLAINS = 0.5  # a suspicion must leave less than this share of the flips
_MOODY = 0.1  # share of a hop's flips that the same frame may have the second time
_EXCHANGED = 0.6  # share of a class's pixels that must have become the other class
_GAIN = 2e-3  # FP16 rounding leaves the gain within 1e-4 of 1
_NEAR = 0.05  # relative distance of scores that are the same but for rounding
_SHIFTS = tuple((dy, dx) for dy in (-2, -1, 0, 1, 2) for dx in (-2, -1, 0, 1, 2) if (dy, dx) != (0, 0))


def suspect(state: HopState, contract: AnyContract) -> tuple[str, ...]:
    """What a failed hop's figures look like, in words; empty when nothing fits.

    Of a hop that answers the same frame differently only that is said: whatever else it is asked tells nothing.
    """
    unsteady = _late(state) or _stateful(state)
    if unsteady:
        return (unsteady,)
    decided = ""
    if state.worst is not None and isinstance(contract, Contract):
        decided = _decided_twice(state.worst, contract)
    found = [_batch_order(state), *_exchanged(state.measured.masks, contract.classes), decided or _gain(state)]
    if state.worst is not None:
        found += [_shifted(state.worst)]
        found += retried(state, state.worst, contract)
    return tuple(text for text in found if text)


def suspect_labels(confusion: Confusion) -> str:
    """Whether the labels look shifted: another diagonal of the confusion matrix fits better."""
    own = _mean_iou(confusion)
    for step in (1, -1):
        shifted = _mean_iou(np.roll(confusion, -step, axis=0))
        if shifted > max(2 * own, 0.3):
            return f"the labels look shifted by {step:+d} class: so counted, the mIoU is {shifted:.3f}, not {own:.3f}"
    return ""


def _late(state: HopState) -> str:
    """Answers that fit the frame before."""
    masks, late = state.measured.masks, state.late
    if not late.pixels or not late.flips < _EXPLAINS * masks.flips * late.pixels / max(1, masks.pixels):
        return ""
    return (
        f"each answer looks like that of the frame before: {masks.flips} flips, {late.flips} against the reference's "
        "answer to the frame before; a buffer is read before it is written"
    )


def _stateful(state: HopState) -> str:
    """Another answer to the frame that it is worst on."""
    seen = state.worst
    if seen is None:
        return ""
    try:
        again = [answered_by(state.hop, [seen.image.frame])[0] for _ in range(2)]
    except SegpipeError:
        return ""
    others = max(int((answered.mask != seen.candidate.mask).sum()) for answered in again)
    if not others > _MOODY * seen.flips.count:
        return ""
    return (
        f"it answers the same frame differently: {others} other pixels in {seen.image.name} when asked again; "
        "something is kept between calls: a state, a buffer, threads that share one"
    )


def _batch_order(state: HopState) -> str:
    """Frames of a batch that got each other's answers."""
    wrong = [(frame, of) for frame, of in enumerate(state.batch_order) if frame != of]
    if not wrong:
        return ""
    return f"frames of a batch look exchanged: frame {wrong[0][0]} got the answer to frame {wrong[0][1]}"


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


def _decided_twice(worst: Seen, contract: Contract) -> str:
    """Probabilities where scores should be, or the other way round."""
    ours, theirs = _scores(worst)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return ""
    several = ours.shape[0] > 1
    name, function = ("softmax", _softmax) if several else ("sigmoid", _sigmoid)
    if contract.output_kind == "probabilities":
        words, distance = f"a {name} looks left out: the contract says probabilities", _distance(ours, function(theirs))
    else:
        words, distance = f"scores look like {name} of the reference's", _distance(function(ours), theirs)
    if not distance < min(_NEAR, _EXPLAINS * _distance(ours, theirs)):
        return ""
    return f"{words}; check the last operator of the graph and output_kind"


def _scores(worst: Seen) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Of reference and candidate, channels first, those pixels that are known of both."""
    ours, theirs = worst.reference.scores, worst.candidate.scores
    if worst.reference.kept is not None and theirs is not None:
        ours, theirs = worst.reference.kept.values, worst.reference.kept.of_candidate(theirs)
    return ours, theirs


def _distance(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    compared = TensorComparison()
    compared.add(ours, theirs)
    return math.inf if compared.non_finite else compared.worst_relative_l2


def _softmax(values: NDArray[Any]) -> NDArray[Any]:
    powers = np.exp(values - values.max(0))
    softened: NDArray[Any] = powers / powers.sum(0)
    return softened


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-values.clip(-80, 80)))


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


def _mean_iou(confusion: Confusion) -> float:
    value = scores(confusion).mean_iou
    return 0.0 if math.isnan(value) else value
