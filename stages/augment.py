"""Augmentation: one affine warp for scale, crop and flip, then brightness and contrast. numpy and OpenCV only."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import ConfigError
from stages.config import TrainConfig

cv2.setNumThreads(0)  # loader workers are the parallelism


@dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for a training sample, and the size it is cropped to."""

    crop: tuple[int, int]
    scale_range: tuple[float, float]
    flip: bool
    jitter: float

    @classmethod
    def from_config(cls, config: TrainConfig, contract: Contract) -> "Augmentation":
        """Crops default to the network's size."""
        if config.crop_height is not None and config.crop_width is not None:
            crop = (config.crop_height, config.crop_width)
        elif contract.network_size is not None:
            crop = contract.network_size
        else:
            raise ConfigError(
                "fit 'pad' has no network size to crop to", hint="set train.crop_height and train.crop_width"
            )
        return cls(crop, config.scale_range, config.flip, config.jitter)


def augment(
    frame: NDArray[Any], labels: NDArray[Any], contract: Contract, how: Augmentation, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """A float32 HxWxC crop in the frame's value range, and its labels (ignore where the crop leaves the frame)."""
    warp = _warp(frame.shape[:2], contract, how, rng)
    size = (how.crop[1], how.crop[0])
    low, high = contract.value_range
    mean = [low + value * (high - low) for value in contract.mean]
    image: NDArray[Any] = cv2.warpAffine(
        frame.astype(np.float32),
        warp,
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=mean[:4],
    ).reshape(*how.crop, contract.channels)
    mask: NDArray[Any] = cv2.warpAffine(
        labels, warp, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=contract.ignore_index
    )
    return _jitter(image, (low, high), how.jitter, rng), mask


def _warp(source: tuple[int, ...], contract: Contract, how: Augmentation, rng: np.random.Generator) -> NDArray[Any]:
    """Source pixels to crop pixels: the contract's resize, then a random scale, position and mirror."""
    placement = contract.place(source[0], source[1])
    factor = float(rng.uniform(*how.scale_range))
    matrix = np.zeros((2, 3))
    for axis in (0, 1):  # 0 is height, the second row of the matrix
        scale = factor * placement.resized[axis] / source[axis]
        room = source[axis] * scale - how.crop[axis]
        start = float(rng.uniform(min(room, 0), max(room, 0)))
        row = 1 - axis
        matrix[row, row] = scale
        matrix[row, 2] = 0.5 * scale - 0.5 - start
    if how.flip and rng.random() < 0.5:
        matrix[0, 0] = -matrix[0, 0]
        matrix[0, 2] = how.crop[1] - 1 - matrix[0, 2]
    return matrix


def _jitter(
    image: NDArray[np.float32], value_range: tuple[float, float], strength: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Change contrast around the middle of the range, and brightness."""
    low, high = value_range
    contrast = 1 + float(rng.uniform(-strength, strength))
    brightness = float(rng.uniform(-strength, strength)) * (high - low) / 2
    middle = (low + high) / 2
    changed = image * np.float32(contrast) + np.float32(middle - middle * contrast + brightness)
    return changed.clip(low, high)
