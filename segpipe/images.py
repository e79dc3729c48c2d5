"""Image files in and out, as the contract describes frames: RGB order, exact type, nothing converted silently."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.storage import explained_refusals, write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> NDArray[Any]:
    """The file's pixels as they are, HxWxC in RGB order."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:  # a header that claims more than OpenCV takes
        raise InputError(
            f"{path} is not an image that OpenCV can read: {error.err}", hint="convert it to PNG or JPEG"
        ) from None
    if pixels is None:
        raise InputError(f"{path} is not an image that OpenCV can read", hint="convert it to PNG or JPEG")
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # several times faster than numpy's indexing
    return np.ascontiguousarray(pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]])


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write HxW or HxWx3 (RGB) losslessly as PNG, whole or not at all."""
    shown = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(shown))
    if not encoded:
        raise InputError(f"{path}: {pixels.dtype} {pixels.shape} cannot be a PNG", hint="pass uint8 or uint16")
    with explained_refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.tobytes())
