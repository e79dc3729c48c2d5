"""Reads one image and one mask, and refuses what the config does not describe: nothing is turned or cut silently."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from segpipe.errors import DataError, InputError
from segpipe.media.images import read_image
from segpipe.palette import Colour
from stages.config.root import InputConfig

Image.MAX_IMAGE_PIXELS = None  # maps and slides are large; a data set is no upload from a stranger

_MODES = {"RGB": "colour", "RGBA": "colour (with transparency)", "L": "grey", "LA": "grey (with transparency)"}
"""Pillow's words for kinds of image, in plain ones."""
_INDEX_MODES = ("1", "L", "P", "I;16", "I;16B", "I")
_UPRIGHT = 1
_NAMED_COLOURS = 8  # of those that a mask's palette lacks
_STEPS = (65536, 256, 1)  # red, green and blue as one number


@dataclass(frozen=True)
class ColourCode:
    """Colours of masks and the label value of each."""

    values: dict[Colour, int]

    def indices(self, pixels: NDArray[np.uint8], path: Path) -> NDArray[np.uint16]:
        """HxWx3 colours to label values; a colour that stands for no class is refused."""
        known = np.array([_code(colour) for colour in self.values], np.int64)
        order = np.argsort(known)
        codes = (pixels.astype(np.int64) * _STEPS).sum(2)
        place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        foreign = known[order][place] != codes
        if foreign.any():
            raise _foreign_colours(codes[foreign], codes.size, path)
        return np.array(list(self.values.values()), np.uint16)[order][place]


def read_frame(path: Path, wanted: InputConfig) -> NDArray[Any]:
    """The image, HxWxC, RGB, in the type that the config describes."""
    _refuse_hidden_conversions(path)
    try:
        pixels = read_image(path)
    except InputError as error:
        raise DataError(error.message, hint=error.hint) from None
    if pixels.shape[2] != wanted.channels or pixels.dtype != wanted.dtype:
        raise DataError(
            f"{path} has {pixels.shape[2]} channels of {pixels.dtype}, "
            f"the config says {wanted.channels} of {wanted.dtype}",
            hint="change [input] channels and dtype, or convert the image",
        )
    low, high = wanted.value_range
    takes_pixels_as_they_are = wanted.dtype == "uint8" and (low, high) == (0.0, 1.0)
    if not takes_pixels_as_they_are and not (low <= pixels.min() and pixels.max() <= high):
        raise DataError(
            f"{path} holds values of {pixels.min()} to {pixels.max()}, [input] value_range is {low:g} to {high:g}",
            hint="widen value_range; values outside would be cut off by augmentation",
        )
    return pixels


def read_labels(path: Path, palette: ColourCode | None) -> NDArray[np.uint16]:
    """A mask's values, HxW; of a palette PNG the indices, which OpenCV would turn into colours."""
    try:
        with Image.open(path) as image:
            if palette is not None:
                if image.mode not in ("RGB", "P"):
                    raise DataError(
                        f"{path} is a {_MODES.get(image.mode, image.mode)} image, [data] masks_are says colours",
                        hint='write it as RGB PNG, or set masks_are = "indices"',
                    )
                return palette.indices(np.asarray(image.convert("RGB")), path)
            if image.mode not in _INDEX_MODES:
                raise DataError(
                    f"{path} is a {_MODES.get(image.mode, image.mode)} image, a mask is a PNG of class numbers",
                    hint='if its colours are the classes, set [data] masks_are = "colours" and palette; '
                    "else write it with one channel",
                )
            values = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise DataError(f"{path} cannot be read as a mask: {error}", hint="write it again as PNG") from None
    if values.min() < 0 or values.max() > 65535:
        raise DataError(f"{path} holds label {int(values.max())}", hint="labels are numbers of 0 to 65535")
    return values.astype(np.uint16)


def _refuse_hidden_conversions(path: Path) -> None:
    """OpenCV would take the first of several pictures, leave a turned one unturned, and guess at CMYK."""
    try:
        with Image.open(path) as image:
            frames = getattr(image, "n_frames", 1)
            orientation = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT)
            mode = image.mode
    except (UnidentifiedImageError, OSError, SyntaxError):
        return  # what Pillow cannot open, OpenCV may: it has the last word
    problem, hint = "", ""
    if frames > 1:
        problem, hint = f"holds {frames} pictures", "save each as a file of its own"
    elif orientation not in (0, _UPRIGHT):
        problem = f"is stored turned (EXIF orientation {orientation}), so its mask may not lie on it"
        hint = "turn the pixels and drop the tag, for example with `mogrify -auto-orient`"
    elif mode in {"CMYK", "YCCK", "LAB"}:
        problem, hint = f"is {mode}, whose colours depend on a profile", "convert it to RGB"
    if problem:
        raise DataError(f"{path} {problem}", hint=hint)


def _foreign_colours(codes: NDArray[np.int64], pixels: int, path: Path) -> DataError:
    """Colours that stand for no class, the most frequent first."""
    colours, counts = np.unique(codes, return_counts=True)
    most = counts.argsort(kind="stable")[::-1][:_NAMED_COLOURS]
    named = [f"{_colour(int(colours[number]))} on {counts[number]}" for number in most]
    plural = "s" if len(named) > 1 else ""
    more = f", and {len(colours) - len(named)} more" if len(colours) > len(named) else ""
    return DataError(
        f"{path} holds the colour{plural} {', '.join(named)} of {pixels} pixels{more}: in neither [data] palette nor "
        "ignore_colours",
        hint="add the colours; blurred or JPEG masks hold mixtures and must be made again as PNG",
    )


def _colour(code: int) -> Colour:
    red, green, blue = (code // step % 256 for step in _STEPS)
    return red, green, blue


def _code(colour: Colour) -> int:
    return sum(part * step for part, step in zip(colour, _STEPS, strict=True))
