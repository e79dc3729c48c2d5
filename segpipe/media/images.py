"""Image files in and out, as the contract describes frames: RGB order, exact type, nothing converted silently."""

import io
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, PngImagePlugin, WebPImagePlugin

from segpipe.errors import InputError
from segpipe.media.files import read_regular
from segpipe.media.image_headers import Header, is_known_kind, read_header
from segpipe.rundir.storage import explained_refusals, write_atomically

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})

_JPEG = b"\xff\xd8"
_EXIF_CHUNKS = (b"eXIf", b"EXIF")  # of PNG, of WebP
_WITH_ALPHA = {b"\x89PNG": PngImagePlugin.PngImageFile, b"RIFF": WebPImagePlugin.WebPImageFile}
"""Who reads their EXIF, by their first bytes. Not by `Image.open`, which limits the size."""
_BROKEN = (cv2.error, OSError, SyntaxError, ValueError, EOFError, struct.error)
"""What a header raises that claims more than OpenCV takes, and what broken chunks and EXIF raise in PIL."""
_MOST_SCANS = 100  # libtiff's limit too; progressive files have about 10. One of 14 bytes goes over 64 megapixels
_AGAIN = "copy or make it again"
_KINDS = "PNG, JPEG, BMP, TIFF, WebP, GIF, PPM and JPEG 2000 are read"
_UPRIGHT = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH


def read_image(path: Path, max_pixels: int | None = None) -> NDArray[Any]:
    """The file's pixels as they are, HxWxC in RGB order; a turned photograph (EXIF) upright."""
    return decode_image(path, read_regular(path), max_pixels)


def decode_image(path: Path, content: bytes, max_pixels: int | None = None) -> NDArray[Any]:
    """The same for bytes that were read from `path`. More than `max_pixels` are refused before they are decoded."""
    header = _checked_header(path, content, max_pixels)
    try:
        pixels = _decoded(np.frombuffer(content, np.uint8), content)
    except _BROKEN as error:
        reason = getattr(error, "err", error)
        raise InputError(f"{path} is damaged, or no kind of image that OpenCV reads: {reason}", hint=_AGAIN) from None
    if pixels is None:
        raise InputError(f"{path} is damaged: its header can be read, its pixels cannot", hint=_AGAIN)
    _require_as_claimed(path, pixels, header)
    if pixels.ndim == 2:
        return pixels[:, :, np.newaxis]
    if pixels.shape[2] == 3:
        return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)  # several times faster than numpy's indexing
    return np.ascontiguousarray(pixels[:, :, [2, 1, 0, *range(3, pixels.shape[2])]])


def _require_as_claimed(path: Path, pixels: NDArray[Any], header: Header) -> None:
    """A file that unfolds to more than the header that was judged is made to deceive; photographs may be turned."""
    height, width = pixels.shape[:2]
    if height * width > header.height * header.width:
        raise InputError(
            f"{path} decodes to {height}x{width}, though its header says {header.height}x{header.width}", hint=_AGAIN
        )


def _checked_header(path: Path, content: bytes, max_pixels: int | None) -> Header:
    header = read_header(content)
    if header is None:
        raise _without_header(path, content)
    if header.mode == "CMYK":
        raise InputError(f"{path} is CMYK, whose colours depend on a profile", hint="convert it to RGB")
    if header.mode == "I;16 inverted":
        raise InputError(f"{path} is a deep TIFF in which 0 is white (MinIsWhite)", hint="save it with 0 as black")
    if header.scans > _MOST_SCANS:
        raise InputError(f"{path} is a JPEG of {header.scans} scans, more than {_MOST_SCANS}", hint="save it again")
    if header.pictures > 1:
        raise InputError(
            f"{path} holds {header.pictures} pictures", hint="save each as a file of its own, or as a video"
        )
    if max_pixels is not None:
        require_pixels(str(path), header.height, header.width, max_pixels)
    return header


def _without_header(path: Path, content: bytes) -> InputError:
    if not content:
        return InputError(f"{path} is empty", hint=_AGAIN)
    if is_known_kind(content):
        return InputError(f"{path} is damaged: its header is cut off or wrong", hint=_AGAIN)
    return InputError(f"{path} is not an image, or of a kind that is not read", hint=_KINDS)


def require_pixels(subject: str, height: int, width: int, max_pixels: int) -> None:
    """Refuse what would take more memory than was allowed."""
    if height * width > max_pixels:
        raise InputError(
            f"{subject} is {height}x{width}, more than the {max_pixels / 1e6:g} megapixels that are allowed",
            hint="raise --max-megapixels where there is memory for it, or cut it up",
        )


def _decoded(data: NDArray[np.uint8], content: bytes) -> NDArray[Any] | None:
    """OpenCV either keeps an alpha channel or turns by EXIF: a JPEG has no alpha, others are looked at first."""
    if content.startswith(_JPEG):
        return cv2.imdecode(data, _UPRIGHT)
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels is None or not any(mark in content for mark in _EXIF_CHUNKS):
        return pixels
    if pixels.ndim == 2 or pixels.shape[2] == 3:
        return cv2.imdecode(data, _UPRIGHT)
    if (reader := _WITH_ALPHA.get(content[:4])) is None:
        return pixels
    return turned(pixels, reader(io.BytesIO(content)).getexif().get(ExifTags.Base.Orientation, 1))


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Upright, by EXIF's number."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


def write_image(path: Path, pixels: NDArray[Any]) -> None:
    """Write HxW or HxWx3 (RGB) losslessly as PNG, whole or not at all."""
    write_png(path, encode_png(path, pixels))


def encode_png(name: Path | str, pixels: NDArray[Any]) -> bytes:
    """HxW or HxWx3 (RGB) as the bytes of a PNG; `name` says in errors what it was to become."""
    shown = pixels[:, :, ::-1] if pixels.ndim == 3 else pixels
    encoded, data = cv2.imencode(".png", np.ascontiguousarray(shown))
    if not encoded:
        raise InputError(f"{name}: {pixels.dtype} {pixels.shape} cannot be a PNG", hint="pass uint8 or uint16")
    return data.tobytes()


def write_png(path: Path, data: bytes) -> None:
    """Write encoded bytes into a folder that may not be there yet."""
    with explained_refusals(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
