"""A failed hop asked once more with changed frames: the change after which it answers rightly names what is wrong."""

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from segpipe.errors import SegpipeError
from stages.measuring.tensors import TensorComparison
from stages.validate.hops.hop import Answered
from stages.validate.hops.inputs import resized_beforehand
from stages.validate.judging.judge import HopState, Seen

Frame = NDArray[Any]
_EXPLAINS = 0.5  # what is left of flips, or of the scores' distance
_CURVES = {"2.2": 2.2, "1/2.2": 1 / 2.2}
_TURNS: dict[str, Callable[[Frame], Frame]] = {
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "turned by 180 degrees": lambda frame: np.rot90(frame, 2),
    "turned by 90 degrees": lambda frame: np.rot90(frame, 1),
    "turned by 270 degrees": lambda frame: np.rot90(frame, 3),
}


Helped = tuple[int, str]
"""How many flips a change leaves, and what that looks like."""


def retried(state: HopState, worst: Seen, contract: FrameContract) -> list[str]:
    """The change that leaves the fewest flips, in words, and what the resize looks like."""
    families = (_swapped_channels, _order_of_means, _toned, _turned)
    found = [helped for family in families for helped in family(state, worst, contract)]
    best = [min(found, key=lambda helped: helped[0])[1]] if found else []
    return [*best, _resize(state, worst, contract)]


def _swapped_channels(state: HopState, worst: Seen, contract: FrameContract) -> Iterator[Helped]:
    """A candidate that agrees once red and blue are exchanged."""
    if worst.image.frame.shape[2] == 3 and (left := _helps(state, worst, worst.image.frame[:, :, ::-1])) is not None:
        yield left, f"red and blue look exchanged: {_said(worst, left)} when passed as BGR; check channel_order"


def _order_of_means(state: HopState, worst: Seen, contract: FrameContract) -> Iterator[Helped]:
    """Frames that make up for mean and std of another channel."""
    if worst.image.frame.shape[2] != 3:
        return
    mean, std = np.asarray(contract.mean), np.asarray(contract.std)
    for order in list(permutations(range(3)))[:0:-1]:  # the reversed one is the commonest
        other = list(order)
        if np.array_equal(mean[other], mean) and np.array_equal(std[other], std):
            continue
        gain = std[other] / std
        changed = _recoloured(worst.image.frame, contract, gain, mean[other] - mean * gain)
        if (left := _helps(state, worst, changed)) is not None:
            names = "std" if np.array_equal(mean[other], mean) else "mean and std"
            said = _said(worst, left)
            yield left, f"{names} look taken in the order {other}: {said} when that is made up for; check their order"


def _recoloured(frame: Frame, contract: FrameContract, gain: NDArray[Any], shift: NDArray[Any]) -> Frame:
    """Each channel, as a share of the value range, times a gain and plus a shift in the network's order."""
    if contract.channel_order == "bgr":
        gain, shift = gain[::-1], shift[::-1]
    low, high = contract.value_range
    return _as_frame(((frame - low) / (high - low) * gain + shift), frame, contract)


def _toned(state: HopState, worst: Seen, contract: FrameContract) -> Iterator[Helped]:
    """A tone curve undone before the hop applies it."""
    low, high = contract.value_range
    shares = ((worst.image.frame - low) / (high - low)).clip(0, 1)
    for name, power in _CURVES.items():
        if (left := _helps(state, worst, _as_frame(shares**power, worst.image.frame, contract))) is not None:
            said = _said(worst, left)
            yield left, f"a tone curve looks applied: {said} behind a gamma of {name}; check how frames are decoded"


def _turned(state: HopState, worst: Seen, contract: FrameContract) -> Iterator[Helped]:
    """A frame turned beforehand, or the mask turned back."""
    frame, mask = worst.image.frame, worst.reference.mask
    for name, turn in _TURNS.items():
        turned = turn(frame)
        if turned.shape != frame.shape:
            continue
        back = int((turn(worst.candidate.mask) != mask).sum())
        left = back if _less(worst, back) else _helps(state, worst, turned)
        if left is not None:
            undone = f"{_said(worst, left)} when that is undone"
            yield left, f"frames or masks look {name}: {undone}; check EXIF and the origin of textures"


def _resize(state: HopState, worst: Seen, contract: FrameContract) -> str:
    """Which resize beforehand gives the very scores that the hop gives by itself."""
    frame, rounded = worst.image.frame, resized_beforehand(contract, worst.image.frame)
    if rounded is None or worst.candidate.scores is None:
        return ""
    own = _distance(state, worst, rounded)
    ways = {name: way(frame, rounded.shape[:2]) for name, way in _RESIZES.items()}
    distances = {name: _distance(state, worst, np.rint(found).astype(frame.dtype)) for name, found in ways.items()}
    best = min(distances, key=lambda name: distances[name])
    if not distances[best] < _EXPLAINS * own:
        return ""
    return (
        f"the resize looks {best}: {worst.image.name} resized so beforehand gives the same scores but for "
        f"{distances[best]:.2g}, resized as the contract says but for {own:.2g}"
    )


def _asymmetric(frame: Frame, size: tuple[int, int]) -> Frame:
    """Without half-pixel centres: pixel 0 stays where it is."""
    return _sampled(frame, *(np.arange(to) * (of / to) for of, to in zip(frame.shape[:2], size, strict=True)))


def _aligned(frame: Frame, size: tuple[int, int]) -> Frame:
    """First and last pixels stay where they are."""
    steps = ((of - 1) / max(1, to - 1) for of, to in zip(frame.shape[:2], size, strict=True))
    return _sampled(frame, *(np.arange(to) * step for to, step in zip(size, steps, strict=True)))


def _sampled(frame: Frame, rows: NDArray[Any], columns: NDArray[Any]) -> Frame:
    """Bilinear at these places."""
    y, x = (places.astype(np.float32) for places in np.meshgrid(rows, columns, indexing="ij"))
    return _by_channel(frame, lambda plane: cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def _averaged(frame: Frame, size: tuple[int, int]) -> Frame:
    return _by_channel(frame, lambda plane: cv2.resize(plane, size[::-1], interpolation=cv2.INTER_AREA))


def _nearest(frame: Frame, size: tuple[int, int]) -> Frame:
    return _by_channel(frame, lambda plane: cv2.resize(plane, size[::-1], interpolation=cv2.INTER_NEAREST))


def _by_channel(frame: Frame, change: Callable[[Frame], Frame]) -> Frame:
    planes = np.moveaxis(frame, -1, 0).astype(np.float32)
    return np.stack([change(np.ascontiguousarray(plane)) for plane in planes], -1)


_RESIZES: dict[str, Callable[[Frame, tuple[int, int]], Frame]] = {
    "asymmetric (no half-pixel centres)": _asymmetric,
    "like align_corners": _aligned,
    "averaging (antialiased)": _averaged,
    "like that of nearest neighbours": _nearest,
}


def _distance(state: HopState, worst: Seen, frame: Frame) -> float:
    """Of the scores for a frame that needs no resize from those for the worst image."""
    answered, compared = _asked(state, frame), TensorComparison()
    if answered is None or answered.scores is None or worst.candidate.scores is None:
        return float("inf")
    compared.add(worst.candidate.scores, answered.scores)
    return float("inf") if compared.non_finite else compared.worst_relative_l2


def _helps(state: HopState, worst: Seen, frame: Frame) -> int | None:
    """How many flips a changed frame leaves; None where it does not help."""
    answered = _asked(state, frame)
    if answered is None or answered.mask.shape != worst.reference.mask.shape:
        return None
    flips = int((answered.mask != worst.reference.mask).sum())
    return flips if _less(worst, flips) else None


def _less(worst: Seen, flips: int) -> bool:
    return flips < _EXPLAINS * worst.flips.count


def _said(worst: Seen, flips: int) -> str:
    return f"{worst.image.name} has {worst.flips.count} flips, {flips}"


def _asked(state: HopState, frame: Frame) -> Answered | None:
    try:
        return state.hop.answer([np.ascontiguousarray(frame)])[0]
    except SegpipeError:
        return None


def _as_frame(shares: NDArray[Any], frame: Frame, contract: FrameContract) -> Frame:
    """Shares of the value range as a frame of the contract's type."""
    low, high = contract.value_range
    values = low + shares * (high - low)
    if frame.dtype.kind == "u":
        values = np.rint(values).clip(0, np.iinfo(frame.dtype).max)
    return values.astype(frame.dtype)
