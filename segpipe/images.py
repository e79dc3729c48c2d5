"""Image files in and out, as the contract describes frames: RGB order, exact type, nothing converted silently."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.storage import explained_refusals, write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

_JPEG = b"\xff\xd8"
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # tables between the markers of JPEG's frame headers
_EXIF_CHUNKS = (b"eXIf", b"EXIF")  # of PNG, of WebP
_UPRIGHT = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH


def read_image(path: Path) -> NDArray[Any]:
    """The file's pixels as they are, HxWxC in RGB order; a turned photograph (EXIF) upright."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    content = data.tobytes()
    if _is_cmyk_jpeg(content):
        raise InputError(f"{path} is CMYK, whose colours depend on a profile", hint="convert it to RGB")
    try:
        pixels = _decoded(data, content)
        pictures = 1 if content.startswith(_JPEG) else cv2.imcount(str(path), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:  # a header that claims more than OpenCV takes
        raise InputError(
            f"{path} is not an image that OpenCV can read: {error.err}", hint="convert it to PNG or JPEG"
        ) from None
    if pixels is None:
        raise InputError(f"{path} is not an image that OpenCV can read", hint="convert it to PNG or JPEG")
    if pictures > 1:
        raise InputError(f"{path} holds {pictures} pictures", hint="save each as a file of its own, or as a video")
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # several times faster than numpy's indexing
    return np.ascontiguousarray(pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]])


def _decoded(data: NDArray[np.uint8], content: bytes) -> NDArray[Any] | None:
    """OpenCV either keeps an alpha channel or turns by EXIF: a JPEG has no alpha, others are looked at first."""
    if not content:
        return None
    if content.startswith(_JPEG):
        return cv2.imdecode(data, _UPRIGHT)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    plain = pixels is not None and (pixels.ndim == 2 or pixels.shape[2] == 3)
    return cv2.imdecode(data, _UPRIGHT) if plain and any(mark in content for mark in _EXIF_CHUNKS) else pixels


def _is_cmyk_jpeg(content: bytes) -> bool:
    """Four components in the frame header; OpenCV would guess at them."""
    at = 2
    while content.startswith(_JPEG) and at + 9 < len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            return content[at + 9] == 4
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return False


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write HxW or HxWx3 (RGB) losslessly as PNG, whole or not at all."""
    shown = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(shown))
    if not encoded:
        raise InputError(f"{path}: {pixels.dtype} {pixels.shape} cannot be a PNG", hint="pass uint8 or uint16")
    with explained_refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.tobytes())
