"""Image files in and out, as the contract describes frames: RGB order, exact type, nothing converted silently."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from segpipe.errors import InputError
from segpipe.storage import explained_refusals, write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

_JPEG = b"\xff\xd8"
_EXIF_CHUNKS = (b"eXIf", b"EXIF")  # of PNG, of WebP
_WITH_ALPHA = {b"\x89PNG": PngImagePlugin.PngImageFile, b"RIFF": WebPImagePlugin.WebPImageFile}
"""Who reads their EXIF, by their first bytes. Not by `Image.open`, which limits the size."""
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
    jpeg = _jpeg_header(content)
    if jpeg is not None and jpeg.mode == "CMYK":
        raise InputError(f"{path} is CMYK, whose colours depend on a profile", hint="convert it to RGB")
    try:
        pixels = _decoded(data, content)
        pictures = getattr(jpeg, "n_frames", 1) if jpeg else cv2.imcount(str(path), cv2.IMREAD_UNCHANGED)
    except (cv2.error, OSError, SyntaxError) as error:  # a header that claims more than OpenCV takes, broken EXIF
        reason = getattr(error, "err", error)
        raise InputError(
            f"{path} is not an image that OpenCV can read: {reason}", hint="convert it to PNG or JPEG"
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
    if pixels is None or not any(mark in content for mark in _EXIF_CHUNKS):
        return pixels
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return cv2.imdecode(data, _UPRIGHT)
    if (reader := _WITH_ALPHA.get(content[:4])) is None:
        return pixels
    return _turned(pixels, reader(io.BytesIO(content)).getexif().get(ExifTags.Base.Orientation, 1))


def _turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Upright, by EXIF's number."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def _jpeg_header(content: bytes) -> JpegImagePlugin.JpegImageFile | None:
    """Its colours and pictures, at which OpenCV would guess."""
    if not content.startswith(_JPEG):
        return None
    try:
        return JpegImagePlugin.jpeg_factory(io.BytesIO(content))
    except (OSError, SyntaxError):  # OpenCV says what it makes of it
        return None


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write HxW or HxWx3 (RGB) losslessly as PNG, whole or not at all."""
    shown = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(shown))
    if not encoded:
        raise InputError(f"{path}: {pixels.dtype} {pixels.shape} cannot be a PNG", hint="pass uint8 or uint16")
    with explained_refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.tobytes())
