"""Frames to the network's input on the CPU: the numpy and OpenCV form of the contract's first half."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract import Contract, Placement
from segpipe.errors import InputError

Frame = NDArray[Any]


def check_frame(frame: Any, contract: Contract) -> Frame:
    """The frame as HxWxC of the contract's type, or an error with what came and what was wanted."""
    wanted = f"{contract.dtype} HxWx{contract.channels}"
    if not isinstance(frame, np.ndarray):
        raise InputError(f"a frame is a numpy array, got {type(frame).__name__}", hint=f"pass {wanted}")
    pixels = frame[:, :, None] if frame.ndim == 2 and contract.channels == 1 else frame
    if pixels.ndim != 3 or pixels.shape[2] != contract.channels or pixels.dtype != contract.dtype:
        raise InputError(
            f"the frame is {frame.dtype} {_shape(frame)}, the contract wants {wanted}", hint=f"pass {wanted}"
        )
    if 0 in pixels.shape:
        raise InputError(f"the frame is empty: {_shape(frame)}", hint="pass frames of at least 1x1 pixel")
    return pixels


def check_device_frame(frame: Any, contract: Contract) -> Any:
    """An array on the GPU, of whatever library, with the contract's shape and type; handed on as it is."""
    wanted = f"{contract.dtype} HxWx{contract.channels}"
    if not (hasattr(frame, "__cuda_array_interface__") or hasattr(frame, "__dlpack__")):
        raise InputError(
            f"a frame is an array, got {type(frame).__name__}", hint=f"pass {wanted} of numpy, PyTorch or CuPy"
        )
    shape, dtype = tuple(frame.shape), str(frame.dtype).rpartition(".")[2]  # torch.uint8
    if len(shape) != 3 or shape[2] != contract.channels or dtype != contract.dtype or 0 in shape:
        found = "x".join(map(str, shape))
        raise InputError(f"the frame is {dtype} {found}, the contract wants {wanted}", hint=f"pass {wanted}")
    return frame


def preprocess(frame: Frame, contract: Contract, placement: Placement) -> NDArray[Any]:
    """HxWxC pixels to one CxHxW (or HxWxC) tensor of the network's type. The frame is not changed."""
    pixels: NDArray[Any] = frame.astype(np.float32)
    height, width = placement.resized
    if placement.resized != placement.source:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
        pixels = pixels.reshape(height, width, contract.channels)  # OpenCV drops a single channel
    if contract.channel_order == "bgr":
        pixels = pixels[:, :, ::-1]
    scale, shift = normalisation(contract)
    canvas = np.zeros((*placement.canvas, contract.channels), np.float32)
    top, left = placement.offset
    canvas[top : top + height, left : left + width] = pixels * scale + shift
    tensor = canvas if contract.input_layout == "nhwc" else canvas.transpose(2, 0, 1)
    if contract.input_dtype == "uint8":
        tensor = np.rint(tensor).clip(0, 255)
    return np.ascontiguousarray(tensor, dtype=contract.input_dtype)


def normalisation(contract: Contract) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and shift a channel, in the network's channel order: range to 0..1, then mean and std, in one step."""
    low, high = contract.value_range
    std = np.asarray(contract.std, np.float64)
    scale = 1.0 / ((high - low) * std)
    shift = -(low / (high - low) + np.asarray(contract.mean, np.float64)) / std
    return scale.astype(np.float32), shift.astype(np.float32)


def _shape(array: Frame) -> str:
    return "x".join(map(str, array.shape)) or "scalar"
