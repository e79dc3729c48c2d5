"""What the gate looks at: images of the validation split, and made-up frames that strain a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import HALF_PIXEL, FrameContract
from segpipe.rundir.storage import sha256_of_bytes

_SEED = 1
Size = tuple[int, int]
RESIZED = "first image, resized and rounded"
"""The name of what `resized_beforehand` makes."""


@dataclass(frozen=True)
class Image:
    """One input: a frame HxWxC, its labels HxW where there are some, and whether it was made up to strain."""

    name: str
    frame: NDArray[Any]
    labels: NDArray[Any] | None = None
    stress: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the frame: type, shape and pixels."""
        return frame_sha256(self.frame)


def frame_sha256(frame: NDArray[Any]) -> str:
    """Hash of type, shape and pixels."""
    head = f"{frame.dtype} {frame.shape} ".encode()
    return sha256_of_bytes(head + np.ascontiguousarray(frame).tobytes())


def stress_images(contract: FrameContract, example: NDArray[Any], sizes: Sequence[Size] = ()) -> Iterator[Image]:
    """Made-up frames of the example's type; each says by its name what it is. `sizes`: of the engine's profiles, where
    the network follows the frame's size."""
    height, width = example.shape[:2]
    for name, frame in _frames(contract, example, sizes or ((1, 1), (2 * height, 2 * width))):
        yield Image(name, np.ascontiguousarray(frame.astype(example.dtype)), stress=True)


def resized_beforehand(contract: FrameContract, example: NDArray[Any]) -> NDArray[Any] | None:
    """The example in the size that the contract resizes it to, in whole numbers; None where nothing is resized, or
    where the contract itself rounds."""
    placement = contract.place(*example.shape[:2])
    height, width = placement.resized
    rounds = contract.resize != HALF_PIXEL or contract.input_dtype == "uint8" or example.dtype.kind != "u"
    if rounds or placement.resized == placement.source or contract.place(height, width).resized != (height, width):
        return None
    planes = [
        cv2.resize(np.ascontiguousarray(example[:, :, channel], np.float32), (width, height))
        for channel in range(example.shape[2])
    ]
    return np.rint(np.stack(planes, -1)).astype(example.dtype)


def _frames(
    contract: FrameContract, example: NDArray[Any], sizes: Sequence[Size]
) -> Iterator[tuple[str, NDArray[Any]]]:
    low, high = _extremes(contract, example.dtype)
    shape = example.shape
    for name, value in (("black", low), ("grey", (low + high) / 2), ("white", high)):
        yield name, np.full(shape, value)
    yield "noise", low + np.random.default_rng(_SEED).random(shape) * (high - low)
    for period in (1, 8):
        fields = np.add.outer(np.arange(shape[0]) // period, np.arange(shape[1]) // period) % 2
        yield f"checkerboard of {period}", np.where(fields[:, :, None], high, low) + np.zeros(shape)
    yield "extreme contrast", np.where(example > np.median(example), high, low)
    changed = example.copy()
    centre = changed[shape[0] // 2, shape[1] // 2]
    centre[:] = np.where(centre > (low + high) / 2, low, high).astype(example.dtype)
    yield "one pixel changed", changed
    for size in sizes:
        yield f"size {size[0]}x{size[1]}", _resized(example, size)


def _extremes(contract: FrameContract, dtype: np.dtype[Any]) -> tuple[float, float]:
    low, high = contract.value_range
    if dtype.kind == "u":
        return max(low, 0.0), min(high, float(np.iinfo(dtype).max))
    return low, high


def _resized(frame: NDArray[Any], size: Size) -> NDArray[Any]:
    resized = cv2.resize(frame, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return resized.reshape(*size, frame.shape[2])
