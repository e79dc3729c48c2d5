"""Resizes of other people's pipelines, done by the libraries that they use. Owns what each kind means."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segpipe.contract.schema import Resize

_TOGETHER = 4  # channels that OpenCV takes at most


def resized_as(kind: Resize, frame: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """HxWxC pixels at (height, width): OpenCV's own 8 bits, or Pillow's antialiased 8 bits or float32."""
    if frame.shape[:2] == size:
        return frame
    if kind == "bilinear-8bit":
        return _by_opencv(frame, size)
    pixels = frame if kind == "antialiased-8bit" else frame.astype(np.float32)
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels.transpose(2, 0, 1)]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes], 2)


def _by_opencv(frame: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    groups = [
        cv2.resize(np.ascontiguousarray(frame[:, :, start : start + _TOGETHER]), size[::-1]).reshape(*size, -1)
        for start in range(0, frame.shape[2], _TOGETHER)
    ]
    return groups[0] if len(groups) == 1 else np.concatenate(groups, 2)
