"""Pictures a person can judge: colour masks, overlays, legends and contact sheets. All images are RGB uint8."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]

_IGNORED = (128, 128, 128)
_LINE = 22  # height of a line of text in pixels
_GAP = 4  # pixels between the pictures of a sheet


def colourise(mask: NDArray[Any], palette: Palette) -> Image:
    """Class numbers to colours; numbers beyond the palette are grey."""
    table = np.full((65536 if mask.dtype == np.uint16 else 256, 3), _IGNORED, np.uint8)
    table[: len(palette)] = palette
    coloured: Image = table[mask]
    return coloured


def displayable(frame: NDArray[Any], value_range: tuple[float, float]) -> Image:
    """Any frame as RGB: the value range becomes 0..255; one channel is repeated, further ones are left out."""
    low, high = value_range
    if frame.dtype == np.uint8 and (low, high) == (0, 255) and frame.shape[2] >= 3:
        return np.ascontiguousarray(frame[:, :, :3])
    shown = (frame.astype(np.float32) - low) * (255.0 / (high - low))
    rgb = shown[:, :, :3] if shown.shape[2] >= 3 else shown[:, :, :1].repeat(3, axis=2)
    return rgb.clip(0, 255).astype(np.uint8)


def overlay(image: Image, mask: NDArray[Any], palette: Palette, opacity: float = 0.5) -> Image:
    """The mask's colours laid over the image."""
    return cv2.addWeighted(image, 1 - opacity, colourise(mask, palette), opacity, 0).astype(np.uint8)


def outlined(image: Image, ids: NDArray[Any]) -> Image:
    """A white line where neighbouring pixels belong to different things or surfaces."""
    edge = np.zeros(ids.shape, np.bool_)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    picture = image.copy()
    picture[edge] = 255
    return picture


def legend(classes: Sequence[str], palette: Palette, width: int) -> Image:
    """A strip of coloured boxes with class names, wrapped at `width`."""
    boxes: list[tuple[int, int, int]] = []
    x, line = 4, 0
    for name in classes:
        needed = _LINE + 10 + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]
        if x + needed > width and x > 4:
            x, line = 4, line + 1
        boxes.append((x, line * _LINE, needed))
        x += needed
    strip = np.full(((line + 1) * _LINE, width, 3), 255, np.uint8)
    for (x, y, _), name, colour in zip(boxes, classes, palette, strict=True):
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), colour, -1)
        cv2.rectangle(strip, (x, y + 4), (x + 14, y + 18), (60, 60, 60), 1)
        _write(strip, name, (x + _LINE - 3, y + 16))
    return strip


def contact_sheet(rows: Sequence[Sequence[Image]], titles: Sequence[str], below: Image | None = None) -> Image:
    """A grid of equally sized pictures under column titles, with a strip (a legend) below."""
    height, width = rows[0][0].shape[:2]
    foot, sheet_width = place_on_sheet(len(rows), len(titles), (height, width))
    sheet = np.full((foot, sheet_width, 3), 255, np.uint8)
    for column, title in enumerate(titles):
        _write(sheet, title, (place_on_sheet(0, column, (height, width))[1], 16))
    for number, row in enumerate(rows):
        for column, picture in enumerate(row):
            top, left = place_on_sheet(number, column, (height, width))
            sheet[top : top + height, left : left + width] = picture
    if below is None:
        return sheet
    strip = np.full((below.shape[0], sheet_width, 3), 255, np.uint8)
    strip[:, : below.shape[1]] = below[:, :sheet_width]
    return np.concatenate([sheet, strip])


def place_on_sheet(row: int, column: int, size: tuple[int, int]) -> tuple[int, int]:
    """Where a contact sheet has the upper left corner of a picture, each of this height and width."""
    return _LINE + row * (size[0] + _GAP), _GAP + column * (size[1] + _GAP)


def _write(image: Image, text: str, at: tuple[int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
