"""Whether a library computes what numpy and OpenCV compute: a few small masks and frames, before it is used."""

import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement
from segpipe.runtime.compiled.frames import Channels, FrameKernels, Sampled
from segpipe.runtime.compiled.masks import MaskKernels
from segpipe.runtime.geometry import Axis, axes
from segpipe.runtime.sampling import is_exact, taps

MASKS = 1935326307
"""The sum over the masks of these cases that numpy's way gives (tests/test_compiled.py)."""

_PLACEMENTS = [
    Placement((97, 30), (24, 32), (24, 24), (0, 4)),  # cells of many pixels along one axis, with bars
    Placement((97, 131), (24, 32), (24, 32), (0, 0)),
    Placement((20, 21), (24, 32), (24, 32), (0, 0)),
]
_SHAPES = [(3, 6, 8), (2, 5, 3), (7, 1, 9)]
FRAMES = [
    ((61, 83), (24, 32), 3),
    ((32, 92), (16, 46), 3),  # exactly half
    ((40, 67), (17, 39), 1),
    ((90, 33), (9, 29), 4),
    ((21, 50), (21, 11), 4),  # the same along one axis
    ((11, 557), (9, 319), 3),
]
"""Sizes before and after, and channels: rows that vectors fill and rows that end within one."""


def cases() -> Iterator[tuple[NDArray[np.float32], Axis, Axis]]:
    """Scores with their axes: ties, denormal numbers, infinities and no number at all are among them."""
    for classes, height, width in _SHAPES:
        numbers = (np.arange(classes * height * width) * 7919 % 101).reshape(classes, height, width)
        scores = (numbers * numbers / 7 - (numbers % 5) * 100).astype(np.float32)
        for number, value in ((31, np.nan), (32, np.inf), (33, -np.inf), (34, 1e-42), (35, 2e-42)):
            scores[numbers == number] = value
        for placement in _PLACEMENTS:
            for planes in (scores, (numbers % 3).astype(np.float32)):
                yield planes, *axes(placement, height, width)


def are_numpys(masks: MaskKernels) -> bool:
    """Whether these masks are numpy's."""
    total = 0
    for scores, rows, columns in cases():
        mask = masks.mask(scores, rows, columns)
        total = zlib.crc32(b"" if mask is None else mask.tobytes(), total)
    return total == MASKS


def are_opencvs(frames: FrameKernels) -> bool:
    """Whether frames are resized as OpenCV does it here, which may change with its version and the processor."""
    return all(_is_opencvs(frames, *case) for case in FRAMES)


def _is_opencvs(frames: FrameKernels, size: tuple[int, int], resized: tuple[int, int], count: int) -> bool:
    pixels = (np.arange(size[0] * size[1] * count) * 7919 % 256).astype(np.uint8).reshape(*size, count)
    scale, shift = np.float32(1 / 59), np.float32(-2)
    channels = Channels(np.arange(count), np.full(count, scale), np.full(count, shift))
    rows, columns = (Sampled(before, *taps(before, after)) for before, after in zip(size, resized, strict=True))
    planes = np.zeros((count, *resized), np.float32)
    if not (is_exact(size, resized, count) and frames.fill(planes, pixels, rows, columns, channels)):
        return False
    expected: NDArray[Any] = cv2.resize(pixels.astype(np.float32), resized[::-1]).reshape(*resized, count)
    return np.array_equal(planes, expected.transpose(2, 0, 1) * scale + shift)
