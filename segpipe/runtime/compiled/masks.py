"""Scores to masks by pixels.c. What it does not do is refused by giving None."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.runtime.compiled.arrays import is_plain
from segpipe.runtime.geometry import Axis

_MOST_CLASSES = 256

Mask = NDArray[np.uint8]


class _Axis(ctypes.Structure):
    """The twin of `Axis` in pixels.c."""

    _fields_ = (
        ("scores", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("pixels", ctypes.c_int64),
        ("starts", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
    )


class MaskKernels:
    """Called from any thread; other threads go on meanwhile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number, axis = ctypes.c_void_p, ctypes.c_int64, ctypes.POINTER(_Axis)
        library.segpipe_labels.argtypes = [pointer, number, number, pointer]
        library.segpipe_mask.argtypes = [pointer, number, axis, axis, pointer, pointer]
        self._labels, self._mask = library.segpipe_labels, library.segpipe_mask

    def labels(self, scores: NDArray[Any]) -> Mask | None:
        """Class of the greatest score, CxHxW to HxW; the first wins ties."""
        if not _are_scores(scores):
            return None
        labels = np.empty(scores.shape[1:], np.uint8)
        self._labels(scores.ctypes.data, len(scores), labels.size, labels.ctypes.data)
        return labels

    def mask(self, scores: NDArray[Any], rows: Axis, columns: Axis) -> Mask | None:
        """Class of the greatest blended score for every pixel of two axes."""
        if not _are_scores(scores):
            return None
        _, height, width = scores.shape
        down, across = _axis(rows, height), _axis(columns, width)
        if down is None or across is None:
            return None
        labels, mask = np.empty((height, width), np.uint8), np.empty((rows.weight.size, columns.weight.size), np.uint8)
        done = self._mask(scores.ctypes.data, len(scores), down, across, labels.ctypes.data, mask.ctypes.data)
        return mask if done else None


def _are_scores(scores: NDArray[Any]) -> bool:
    return scores.ndim == 3 and is_plain(scores, np.float32) and 0 < len(scores) <= _MOST_CLASSES and scores.size > 0


def _axis(axis: Axis, scores: int) -> _Axis | None:
    """The arrays of an axis, if they are as long as pixels.c takes them to be."""
    parts = axis.parts
    fits = parts.cells == scores + 1 and parts.starts.size == parts.cells * parts.count + 1
    if not (fits and is_plain(parts.starts, np.int64) and is_plain(parts.weight, np.float32)):
        return None
    return _Axis(scores, parts.count, parts.weight.size, parts.starts.ctypes.data, parts.weight.ctypes.data)
