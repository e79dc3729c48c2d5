"""Frames to the network's input on the CPU: the numpy and OpenCV form of the contract's first half."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import HALF_PIXEL, FrameContract, Placement
from segpipe.errors import InputError
from segpipe.runtime.compiled.chosen import kernels
from segpipe.runtime.compiled.frames import Channels, Sampled
from segpipe.runtime.sampling import RESIZED_TOGETHER, bands_of, is_exact, taps

Frame = NDArray[Any]

_BLOCK_VALUES = 1 << 17  # numbers that several passes go over: as float32 they stay in a core's own cache


def check_frame(frame: Any, contract: FrameContract) -> Frame:
    """The frame as HxWxC of the contract's type, or an error with what came and what was wanted."""
    wanted = f"{contract.dtype} HxWx{contract.channels}"
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame is a numpy array, got {type(frame).__name__}", hint=f"pass {wanted}")
    pixels = frame[:, :, None] if frame.ndim == 2 and contract.channels == 1 else frame
    if pixels.ndim != 3 or pixels.shape[2] != contract.channels or pixels.dtype != contract.dtype:
        planes = pixels.ndim == 3 and pixels.shape[0] == contract.channels and pixels.dtype == contract.dtype
        hint = "it looks like CxHxW: pass frame.transpose(1, 2, 0), of a tensor permute" if planes else f"pass {wanted}"
        raise InputError(f"the frame is {frame.dtype} {_shape(frame)}, the contract wants {wanted}", hint=hint)
    if 0 in pixels.shape:
        raise InputError(f"the frame is empty: {_shape(frame)}", hint="pass frames of at least 1x1 pixel")
    return pixels


def preprocess(
    frame: Frame, contract: FrameContract, placement: Placement, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    """HxWxC pixels to one CxHxW (or HxWxC) tensor of the network's type, into `out` if given."""
    tensor = np.empty(tensor_shape(contract, placement), contract.input_dtype) if out is None else out
    planes = tensor if contract.input_layout == "nchw" else tensor.transpose(2, 0, 1)
    (top, left), (height, width) = placement.offset, placement.resized
    if placement.resized != placement.canvas:
        _fill_bars(planes, contract, placement)
    source = placement.source
    if contract.resize != HALF_PIXEL:
        from segpipe.runtime.resizing import resized_as  # Pillow loads here

        frame, source = resized_as(contract.resize, frame, placement.resized), placement.resized
    inner = planes[:, top : top + height, left : left + width]
    if source != placement.resized and _fill_compiled(inner, frame, contract):
        return tensor
    bands = bands_of(source, placement.resized, contract.channels)
    for band in range(bands.count):
        _fill(inner[:, bands.target(band)], bands.source(frame, band), contract)
    return tensor


def tensor_shape(contract: FrameContract, placement: Placement) -> tuple[int, int, int]:
    """Shape of one frame's tensor, without the batch."""
    height, width = placement.canvas
    nchw = contract.input_layout == "nchw"
    return (contract.channels, height, width) if nchw else (height, width, contract.channels)


@lru_cache(maxsize=16)
def normalisation(contract: FrameContract) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift a channel, in the network's channel order: range to 0..1, then mean and std, in one step."""
    low, high = contract.value_range
    std = np.asarray(contract.std, np.float64)
    scale = 1.0 / ((high - low) * std)
    shift = -(low / (high - low) + np.asarray(contract.mean, np.float64)) / std
    numbers = scale.astype(np.float32), shift.astype(np.float32)
    for shared in numbers:
        shared.flags.writeable = False
    return numbers


def _fill_bars(planes: Frame, contract: FrameContract, placement: Placement) -> None:
    """What the frame does not cover."""
    (top, left), (height, width) = placement.offset, placement.resized
    value, beside = np.zeros(contract.channels, np.float32), planes[:, top : top + height]
    if contract.padding is not None:
        scale, shift = normalisation(contract)
        value = np.float32(contract.padding) * scale + shift
    if planes.dtype == np.uint8:
        value = np.rint(value).clip(0, 255)
    for bar in (planes[:, :top], planes[:, top + height :], beside[..., :left], beside[..., left + width :]):
        bar[...] = value[:, None, None]


def _source(contract: FrameContract, channel: int) -> int:
    """Which channel of a frame is the network's `channel`."""
    return contract.channels - 1 - channel if contract.channel_order == "bgr" else channel


def _fill(planes: Frame, pixels: Frame, contract: FrameContract) -> None:
    """CxHxW of the network's numbers from HxWxC pixels of whatever size."""
    size = planes.shape[1], planes.shape[2]
    if _normalises_first(pixels, contract, size):
        _split(_resized(_normalised(pixels, contract), size), contract, [*planes])
        return
    resized = _resized(pixels, size)
    if resized.dtype == planes.dtype == np.float32:
        _split(resized, contract, [*planes])
        scale, shift = normalisation(contract)
        planes *= scale[:, None, None]
        planes += shift[:, None, None]
        return
    for channel, target in enumerate(planes):
        _normalise(resized[:, :, _source(contract, channel)], contract, channel, target)


def _fill_compiled(planes: Frame, pixels: Frame, contract: FrameContract) -> bool:
    """The same for frames that shrink, if compiled code can: false where nothing was done."""
    compiled, before, after = kernels().frames, pixels.shape[:2], planes.shape[1:]
    if not compiled or before[0] < after[0] or before[1] < after[1] or not is_exact(before, after, contract.channels):
        return False
    return compiled.fill(planes, pixels, *_sampled(before, after), _channels(contract))


@lru_cache(maxsize=32)
def _sampled(before: tuple[int, int], after: tuple[int, int]) -> tuple[Sampled, Sampled]:
    rows, columns = (Sampled(size, *taps(size, count)) for size, count in zip(before, after, strict=True))
    return rows, columns


@lru_cache(maxsize=16)
def _channels(contract: FrameContract) -> Channels:
    return Channels(np.array([_source(contract, k) for k in range(contract.channels)]), *normalisation(contract))


def _normalises_first(pixels: Frame, contract: FrameContract, size: tuple[int, int]) -> bool:
    """Whether 8 bits become the network's numbers before they are enlarged, in one go with the cast to float32.

    A bilinear blend of normalised pixels is the normalised blend but for the last bits: it is done where fewer are.
    """
    few = contract.channels <= RESIZED_TOGETHER and pixels[:, :, 0].size < size[0] * size[1]
    return few and pixels.dtype == np.uint8 and contract.input_dtype != "uint8"


def _normalised(pixels: Frame, contract: FrameContract) -> Frame:
    """The numbers that the tables hold, by arithmetic on a few rows at a time: half the time of looking them up."""
    height, width, channels = pixels.shape
    scale, shift = _lines(contract, width)
    values = np.empty((height, width * channels), np.float32)
    step = max(_BLOCK_VALUES // scale.size, 1)
    for start in range(0, height, step):
        block = values[start : start + step]
        np.copyto(block, pixels[start : start + step].reshape(block.shape))
        block *= scale
        block += shift
    return values.reshape(pixels.shape)


def _split(pixels: Frame, contract: FrameContract, targets: Sequence[Frame]) -> None:
    """HxWxC numbers into the network's planes."""
    by_source = [targets[_source(contract, channel)] for channel in range(contract.channels)]
    if all(target.dtype == np.float32 and target.flags.c_contiguous for target in targets):
        cv2.split(pixels, by_source)
        return
    for channel, target in enumerate(by_source):
        target[...] = pixels[:, :, channel]


def _resized(frame: Frame, size: tuple[int, int]) -> Frame:
    """Half-pixel bilinear in float32, not rounded. OpenCV drops a single channel and takes only so many."""
    if frame.shape[:2] == size:
        return frame
    height, width = size
    pixels = np.ascontiguousarray(frame, np.float32)
    groups = [
        cv2.resize(pixels[:, :, start : start + RESIZED_TOGETHER], (width, height), interpolation=cv2.INTER_LINEAR)
        for start in range(0, frame.shape[2], RESIZED_TOGETHER)
    ]
    whole = [group.reshape(height, width, -1) for group in groups]
    return whole[0] if len(whole) == 1 else np.concatenate(whole, 2)


def _normalise(plane: Frame, contract: FrameContract, channel: int, out: Frame) -> None:
    """One plane of pixels to the network's numbers in `out`; 8 bits through a table, without an intermediate array."""
    if plane.dtype == np.uint8 and contract.input_dtype == "uint8":
        out[...] = plane
    elif plane.dtype == np.uint8:
        direct = out.dtype == np.float32 and out.strides[1] == out.itemsize
        values = cv2.LUT(np.ascontiguousarray(plane), _tables(contract)[channel], dst=out if direct else None)
        if not direct:
            out[...] = values
    else:
        scale, shift = normalisation(contract)
        values = np.multiply(plane, scale[channel], dtype=np.float32)
        values += shift[channel]
        out[...] = np.rint(values).clip(0, 255) if out.dtype == np.uint8 else values


@lru_cache(maxsize=16)
def _tables(contract: FrameContract) -> NDArray[np.float32]:
    """For each channel, what each of the 256 pixel values becomes."""
    scale, shift = normalisation(contract)
    tables: NDArray[np.float32] = np.arange(256, dtype=np.float32) * scale[:, None] + shift[:, None]
    return tables


@lru_cache(maxsize=16)
def _lines(contract: FrameContract, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift of every number in a row of a frame."""
    order = [_source(contract, channel) for channel in range(contract.channels)]
    scale, shift = normalisation(contract)
    return np.tile(scale[order], width), np.tile(shift[order], width)


def _shape(array: Frame) -> str:
    return "x".join(map(str, array.shape)) or "scalar"
