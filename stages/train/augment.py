"""Augmentation: one affine warp, one 3x4 colour matrix, and normalisation. numpy and OpenCV only."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import AnyContract
from segpipe.errors import ConfigError
from stages.config.root import AugmentConfig, TrainConfig

Rng = np.random.Generator
Sample = tuple[NDArray[np.float32], NDArray[Any]]
"""A normalised CxHxW crop in the network's channel order, and its labels HxW."""
Transform = Callable[[NDArray[np.float32], NDArray[Any], int], tuple[NDArray[np.float32], NDArray[Any]]]
"""The user's own, last: CxHxW crop in the frame's order with the value range as 0..1, labels, seed -> both changed."""

_ALIASED = 0.75  # below this scale the frame is blurred first: bilinear sampling would skip pixels
_CHANNELS_AT_ONCE = 4  # OpenCV's limit for warps with a border
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augmentation:
    """What is drawn at random for a training sample, and the size it is cropped to."""

    crop: tuple[int, int]
    config: AugmentConfig
    transform: Transform | None = None


def crop_size(config: TrainConfig, contract: AnyContract, epoch: int) -> tuple[int, int]:
    """Height and width of the crops in this epoch; they default to the network's size."""
    if config.late_crop is not None and epoch >= round(config.epochs * (1 - config.late_share)):
        return config.late_crop
    if config.crop_height is not None and config.crop_width is not None:
        return config.crop_height, config.crop_width
    if contract.network_size is not None:
        return contract.network_size
    raise ConfigError("fit 'pad' has no network size to crop to", hint="set train.crop_height and train.crop_width")


def augment(frame: NDArray[Any], labels: NDArray[Any], contract: AnyContract, how: Augmentation, rng: Rng) -> Sample:
    """One random crop of a frame. Labels are ignored where it leaves the frame."""
    config = how.config
    factor = float(rng.uniform(*config.scale_range))
    matrix = _warp_matrix(frame.shape[:2], contract, how, factor, rng)
    sigma = 0.5 / factor if factor < _ALIASED else 0.0
    if rng.random() < config.blur:
        sigma = max(sigma, float(rng.uniform(0.5, 1.5)) / factor)
    image = _warp(_blurred(frame, sigma), matrix, how.crop, contract)
    mask: NDArray[Any] = cv2.warpAffine(
        labels,
        matrix,
        how.crop[::-1],
        flags=cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=contract.ignore_index,
    )
    crop = _coloured(image, contract, config, rng)
    if rng.random() < config.erase:
        _erase(crop, mask, contract, rng)
    if how.transform is not None:
        crop, mask = _changed_by_user(crop, mask, contract, how.transform, int(rng.integers(1 << 62)))
    return crop, mask


def shown(crop: NDArray[np.float32], contract: AnyContract) -> NDArray[np.float32]:
    """A normalised CxHxW crop back in the frame's value range and order, HxWxC."""
    low, high = contract.value_range
    mean, std = np.array(contract.mean, np.float32), np.array(contract.std, np.float32)
    pixels = (crop.transpose(1, 2, 0) * std + mean) * (high - low) + low
    return pixels[:, :, ::-1] if contract.channel_order == "bgr" else pixels


def _warp_matrix(
    source: tuple[int, ...], contract: AnyContract, how: Augmentation, factor: float, rng: Rng
) -> NDArray[Any]:
    """Source pixels to crop pixels: the contract's resize, then a random scale, position, rotation and mirror."""
    placement = contract.place(source[0], source[1])
    matrix = np.eye(3)
    for axis in (0, 1):  # 0 is height, the second row of the matrix
        scale = factor * placement.resized[axis] / source[axis]
        room = source[axis] * scale - how.crop[axis]
        start = float(rng.uniform(min(room, 0), max(room, 0)))
        row = 1 - axis
        matrix[row, row] = scale
        matrix[row, 2] = 0.5 * scale - 0.5 - start
    middle = ((how.crop[1] - 1) / 2, (how.crop[0] - 1) / 2)
    turn = float(rng.uniform(-1, 1)) * how.config.rotation_degrees
    if turn:
        matrix = np.vstack([cv2.getRotationMatrix2D(middle, turn, 1.0), (0, 0, 1)]) @ matrix
    for wanted, row in ((how.config.flip, 0), (how.config.flip_vertical, 1)):
        if wanted and rng.random() < 0.5:
            matrix[row] = -matrix[row]
            matrix[row, 2] += 2 * middle[row]
    return matrix[:2]


def _blurred(frame: NDArray[Any], sigma: float) -> NDArray[Any]:
    if not sigma:
        return frame
    return cv2.GaussianBlur(frame, (0, 0), sigma).reshape(frame.shape)


def _warp(
    frame: NDArray[Any], matrix: NDArray[Any], size: tuple[int, int], contract: AnyContract
) -> NDArray[np.float32]:
    """The crop as float32 HxWxC in the frame's own values; new pixels have the mean."""
    low, high = contract.value_range
    border = [low + value * (high - low) for value in _in_frame_order(contract.mean, contract)]
    parts = []
    for first in range(0, contract.channels, _CHANNELS_AT_ONCE):
        group = slice(first, first + _CHANNELS_AT_ONCE)
        part = cv2.warpAffine(
            np.ascontiguousarray(frame[:, :, group]),
            matrix,
            size[::-1],
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=border[group],
        )
        parts.append(part.reshape(*size, -1))
    image: NDArray[Any] = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return image.astype(np.float32)


def _coloured(
    image: NDArray[np.float32], contract: AnyContract, config: AugmentConfig, rng: Rng
) -> NDArray[np.float32]:
    """HxWxC pixels to a normalised CxHxW crop. Brightness, contrast, saturation, hue and the contract's mean, std and
    channel order are one matrix; values that colours push out of the value range are cut to it."""
    contrast = 1 + float(rng.uniform(-1, 1)) * config.contrast
    brightness = 1 + float(rng.uniform(-1, 1)) * config.brightness
    saturation = 1 + float(rng.uniform(-1, 1)) * config.saturation
    hue = float(rng.uniform(-1, 1)) * config.hue
    low, high = contract.value_range
    mean, std = np.array(contract.mean), np.array(contract.std)
    centre = (float(image.mean()) - low) / (high - low)  # a dark frame with more contrast must not turn black
    shift, contrast = brightness * centre * (1 - contrast), brightness * contrast
    crop = np.empty((contract.channels, *image.shape[:2]), np.float32)
    if contract.channels == 3:
        colours = contrast * _saturated(saturation) @ _hue_turn(hue)
        colours = colours[::-1] if contract.channel_order == "bgr" else colours
        offset = shift - colours.sum(1) * low / (high - low)
        matrix = np.column_stack([colours / (high - low), offset - mean]) / std[:, None]
        cv2.transform(image, matrix, dst=image)
        scale, offset = np.ones(3), np.zeros(3)
    else:
        scale, offset = contrast / ((high - low) * std), (shift - contrast * low / (high - low) - mean) / std
    for number, plane in enumerate(crop):
        cv2.extractChannel(image, number, dst=plane)
        if contract.channels != 3:
            np.multiply(plane, np.float32(scale[number]), out=plane)
            np.add(plane, np.float32(offset[number]), out=plane)
        np.clip(plane, -mean[number] / std[number], (1 - mean[number]) / std[number], out=plane)
    return crop


def _saturated(strength: float) -> NDArray[Any]:
    """1 keeps colours, 0 makes them grey."""
    return strength * np.eye(3) + (1 - strength) * np.tile(_LUMA, (3, 1))


def _hue_turn(degrees: float) -> NDArray[Any]:
    """Rotation of RGB around the grey axis."""
    angle = np.radians(degrees)
    axis = np.ones((3, 3)) / 3
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.cos(angle) * np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * axis


def _erase(crop: NDArray[np.float32], mask: NDArray[Any], contract: AnyContract, rng: Rng) -> None:
    """A rectangle of 2 to 15 % of the crop becomes the mean; its labels are ignored."""
    height, width = mask.shape
    share, aspect = float(rng.uniform(0.02, 0.15)), float(np.exp(rng.uniform(-1, 1)))
    tall = min(height, max(1, round(np.sqrt(height * width * share * aspect))))
    wide = min(width, max(1, round(np.sqrt(height * width * share / aspect))))
    top, left = int(rng.integers(0, height - tall + 1)), int(rng.integers(0, width - wide + 1))
    crop[:, top : top + tall, left : left + wide] = 0  # the mean, normalised
    mask[top : top + tall, left : left + wide] = contract.ignore_index


def _changed_by_user(
    crop: NDArray[np.float32], mask: NDArray[Any], contract: AnyContract, transform: Transform, seed: int
) -> Sample:
    """The user's transform sees pixels of 0 to 1 in the frame's order, not normalised ones."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (contract.mean, contract.std))
    turned = slice(None, None, -1 if contract.channel_order == "bgr" else 1)
    pixels, mask = transform(np.ascontiguousarray((crop * std + mean)[turned]), mask, seed)
    return np.ascontiguousarray((pixels[turned] - mean) / std), mask


def _in_frame_order(values: tuple[float, ...], contract: AnyContract) -> tuple[float, ...]:
    return values[::-1] if contract.channel_order == "bgr" else values
