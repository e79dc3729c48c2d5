"""Pictures that people hand over, files and PIL's images, as pixels of a contract: nothing is converted silently."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.media.files import read_regular
from segpipe.media.image_headers import read_header
from segpipe.media.images import decode_image

Fits = Callable[[int, int], None]
"""Refuses a height and width before anything of that size is decoded."""
Encoded = bytes | bytearray | memoryview
Picture = Image.Image | str | os.PathLike[str] | Encoded

_PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PLAIN_MODES = {*_PIL_MODES.values(), "LA", "I;16", "F"}
"""Of PIL, whose numbers are what they say: those of others are indices, or colours of another kind."""
_COLOURS = {1: "grey", 2: "grey with transparency", 3: "RGB", 4: "RGB with transparency"}


def is_picture(thing: Any) -> bool:
    """Whether this is an image of PIL, a path, or an encoded image."""
    return isinstance(thing, Image.Image | str | os.PathLike | Encoded)


def picture_pixels(picture: Picture, contract: Contract, fits: Fits) -> NDArray[Any]:
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


def require_kind(name: str, pixels: NDArray[Any], contract: Contract) -> None:
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
    if "\0" in name:
        raise InputError(f"{name!r} is not a path", hint="pass an encoded image as bytes")
    return read_regular(Path(name))


def _decoded(path: Path, content: bytes, fits: Fits) -> NDArray[Any]:
    """An image file's pixels, as `segpipe predict` reads them."""
    if header := read_header(content):
        fits(header.height, header.width)
    return decode_image(path, content)


def _by_pil(image: Image.Image, contract: Contract, fits: Fits) -> NDArray[Any]:
    """A PIL image's pixels; a turned photograph upright, as files are read."""
    wanted = _PIL_MODES.get(contract.channels, "RGB")
    if image.mode not in _PLAIN_MODES:
        raise InputError(f"the picture's pixels are of PIL's mode {image.mode}", hint=f"pass image.convert({wanted!r})")
    fits(image.height, image.width)
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        pixels = np.asarray(ImageOps.exif_transpose(image) if turned else image)
    except (OSError, SyntaxError) as error:
        raise InputError(f"the picture is damaged: {error}", hint="copy or make it again") from None
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
