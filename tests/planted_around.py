"""Defects of what lies around a network: frames, buffers, batches, scores. The graph is the good one."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np
import torch

from stages.validate.hops.hop import Answer, Answered
from tests.good_run import Good, decided, embedded


def gamma(good: Good) -> Answer:
    """Frames through a tone curve, as a decoder that linearises does it."""
    return changed_frames(good, lambda frame: np.rint(255 * (frame / 255) ** 2.2).astype(np.uint8))


def mirrored(good: Good) -> Answer:
    """Frames upside down, as a texture's origin has it; masks stay so."""
    return changed_frames(good, np.flipud)


def turned(good: Good) -> Answer:
    """Frames turned by 180 degrees and masks turned back wrongly: EXIF is read on one side only."""
    return changed_frames(good, lambda frame: np.rot90(frame, 2))


def changed_frames(good: Good, change: Callable[[np.ndarray], np.ndarray]) -> Answer:
    inner = good.runtime(good.graph())
    return lambda frames: inner([np.ascontiguousarray(change(frame)) for frame in frames])


def reversed_means(good: Good) -> Answer:
    """The contract's mean and std, last channel first."""
    return embedded(good, mean=good.contract.mean[::-1], std=good.contract.std[::-1])


class StaleBuffer:
    """Answers each call with what the call before asked for."""

    def __init__(self, inner: Answer) -> None:
        self._inner = inner
        self._kept: list[Answered] = []

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Answered]:
        found, before = self._inner(frames), self._kept
        self._kept = found
        return before if [one.mask.shape for one in before] == [one.mask.shape for one in found] else found


def stale_buffer(good: Good) -> Answer:
    return StaleBuffer(good.runtime(good.graph()))


class Drifting:
    """Red and blue are exchanged in every second call."""

    def __init__(self, inner: Answer) -> None:
        self._inner, self._calls = inner, 0

    def __call__(self, frames: Sequence[np.ndarray]) -> list[Answered]:
        self._calls += 1
        return self._inner([np.ascontiguousarray(frame[:, :, :: 1 if self._calls % 2 else -1]) for frame in frames])


def stateful(good: Good) -> Answer:
    return Drifting(good.runtime(good.graph()))


def reversed_batches(good: Good) -> Answer:
    inner = good.runtime(good.graph())
    return lambda frames: inner(frames)[::-1]


def softmax_for_logits(good: Good) -> Answer:
    inner = good.runtime(good.graph())

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        found = []
        for one in inner(frames):
            assert one.scores is not None
            found.append(replace(one, scores=torch.from_numpy(one.scores).softmax(0).numpy()))
        return found

    return answer


def asymmetric_resize(good: Good) -> Answer:
    """A resize that keeps pixel 0 where it is, in whole pixel values."""
    inner = good.runtime(good.graph())

    def resized(frame: np.ndarray) -> np.ndarray:
        height, width = good.contract.place(*frame.shape[:2]).resized
        rows, columns = (np.arange(to) * of / to for of, to in zip(frame.shape[:2], (height, width), strict=True))
        x, y = np.meshgrid(columns.astype(np.float32), rows.astype(np.float32))
        moved = cv2.remap(frame.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.rint(moved).astype(np.uint8)

    def answer(frames: Sequence[np.ndarray]) -> list[Answered]:
        fits = [good.contract.place(*frame.shape[:2]).resized == frame.shape[:2] for frame in frames]
        given = inner([frame if fit else resized(frame) for frame, fit in zip(frames, fits, strict=True)])
        return [decided(good.contract, one.scores, frame) for frame, one in zip(frames, given, strict=True)]

    return answer
