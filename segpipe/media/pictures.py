"""Pictures that people hand over, files and PIL's images, as pixels of a contract: nothing is converted silently."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from segpipe.contract.schema import FrameContract
from segpipe.errors import InputError
from segpipe.media.files import read_regular
from segpipe.media.image_headers import read_header
from segpipe.media.images import decode_image, turned

Fits = Callable[[int, int], None]
"""Refuses a height and width before anything of that size is decoded."""
Encoded = bytes | bytearray | memoryview
Picture = Image.Image | str | os.PathLike[str] | Encoded

_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PLAIN_MODES = {*_PIL_MODES.values(), "LA", "I;16", "F"}
"""Of PIL, whose numbers are what they say: those of others are indices, or colours of another kind."""
_DEEP_MODES = {"I;16", "F"}
_COLOURS = {1: "grey", 2: "grey with transparency", 3: "RGB", 4: "RGB with transparency"}


def is_picture(thing: Any) -> bool:
    """Whether this is an image of PIL, a path, or an encoded image."""
    return isinstance(thing, Image.Image | str | os.PathLike | Encoded)


def picture_pixels(picture: Picture, contract: FrameContract, fits: Fits) -> NDArray[Any]:
    """HxWxC in RGB order, upright, of the contract's type and channels."""
    if isinstance(picture, Image.Image):
        pixels, name = _by_pil(picture, contract, fits), "the picture"
    elif isinstance(picture, str | os.PathLike):
        name = os.fsdecode(picture)
        pixels = _decoded(Path(name), _content(name), fits)
    else:
        content = bytes(picture)
        name = f"the image of {len(content)} bytes"
        pixels = _decoded(Path(name), content, fits)
    require_kind(name, pixels, contract)
    return pixels


def require_kind(name: str, pixels: NDArray[Any], contract: FrameContract) -> None:
    """Refuse pictures not of the contract's type and channels, in the words of whoever has a file."""
    if (pixels.shape[2], str(pixels.dtype)) == (contract.channels, contract.dtype):
        return
    found, wanted = _kind(pixels.shape[2], str(pixels.dtype)), _kind(contract.channels, contract.dtype)
    raise InputError(f"{name} is {found}, the network takes {wanted}", hint=f"convert it to {wanted}")


def _kind(channels: int, dtype: str) -> str:
    """`8-bit RGB`, `16-bit grey`."""
    depth = {"uint8": "8-bit", "uint16": "16-bit"}.get(dtype, dtype)
    return f"{depth} {_COLOURS.get(channels, f'with {channels} channels')}"


def _content(name: str) -> bytes:
    try:
        usable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        raise InputError(f"{name!r} is not a path", hint="pass an encoded image as bytes")
    return read_regular(Path(name))


def _decoded(path: Path, content: bytes, fits: Fits) -> NDArray[Any]:
    """An image file's pixels, as `segpipe predict` reads them."""
    if header := read_header(content):
        fits(header.height, header.width)
    return decode_image(path, content)


def _by_pil(image: Image.Image, contract: FrameContract, fits: Fits) -> NDArray[Any]:
    """A PIL image's pixels; a turned photograph upright, as files are read."""
    wanted = _PIL_MODES.get(contract.channels, "RGB")
    if image.mode not in _PLAIN_MODES:
        raise InputError(f"the picture's pixels are of PIL's mode {image.mode}", hint=f"pass image.convert({wanted!r})")
    fits(image.height, image.width)
    try:
        lost, pixels, orientation = _lost(image), np.asarray(image), _orientation(image)
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # of a closed image ValueError
        raise InputError(f"the picture is damaged or closed: {error}", hint="copy or make it again") from None
    if lost:
        raise lost
    return turned(pixels[:, :, None] if pixels.ndim == 2 else pixels, orientation)


def _lost(image: Image.Image) -> InputError | None:
    """What the same file would be refused for: PIL takes the first of several pictures, and 8 of 16 bits."""
    if (pictures := getattr(image, "n_frames", 1)) > 1:
        return InputError(f"the picture's file holds {pictures} pictures", hint="pass image.copy() of the one you mean")
    if image.mode not in _DEEP_MODES and any(_is_deep(tile) for tile in getattr(image, "tile", ())):
        return InputError("the picture is 16-bit, of which PIL keeps 8", hint="pass image.copy() where 8 are enough")
    return None


def _is_deep(tile: Any) -> bool:
    """Whether PIL has yet to decode more than 8 bits; PPM's decoder is told the largest value."""
    decoder, *_, settings = tile
    return ";16" in str(settings) or (decoder.startswith("ppm") and settings[1] > 255)


def _orientation(image: Image.Image) -> Any:
    """By EXIF alone, as files are read; PIL would also take it from XMP."""
    if tags := getattr(image, "tag_v2", None):  # of TIFF
        return tags.get(ExifTags.Base.Orientation, 1)
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return exif.get(ExifTags.Base.Orientation, 1)
