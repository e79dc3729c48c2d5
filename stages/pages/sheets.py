"""Sheets of pictures: PNGs for a person, which also say inside where each picture lies, so that pages can take them
apart and set them in their own words, colours and width."""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import BaseModel, Field, ValidationError

from segpipe import draw

_KEYWORD = "segpipe-sheet"
_QUALITY = 88
_WHOLE_PX = 1400  # width of a sheet that says nothing of its pictures


@dataclass(frozen=True)
class Row:
    """Pictures that belong together, one below each title, none larger than the sheet's cells."""

    caption: str
    pictures: tuple[draw.Image, ...]


@dataclass(frozen=True)
class Legend:
    """What colours stand for."""

    names: Sequence[str]
    colours: draw.Palette


class _Tile(BaseModel):
    title: str
    left: int = Field(ge=0)
    top: int = Field(ge=0)
    width: int = Field(gt=0)
    height: int = Field(gt=0)


class _MappedRow(BaseModel):
    caption: str
    tiles: tuple[_Tile, ...]


class _Map(BaseModel):
    rows: tuple[_MappedRow, ...]
    legend: tuple[tuple[str, tuple[int, int, int]], ...]


@dataclass(frozen=True)
class Shown:
    """A picture on a page."""

    title: str
    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class ShownRow:
    """Pictures side by side."""

    caption: str
    pictures: tuple[Shown, ...]


@dataclass(frozen=True)
class ShownSheet:
    """A sheet on a page. One that says nothing of its pictures is a single one."""

    rows: tuple[ShownRow, ...]
    legend: tuple[tuple[str, str], ...]
    """Names and CSS colours."""

    @property
    def whole(self) -> bool:
        """Whether it is a picture of pictures, with words on white."""
        return [len(row.pictures) for row in self.rows] == [1] and not self.rows[0].pictures[0].title


def encode_sheet(rows: Sequence[Row], titles: Sequence[str], legends: Sequence[Legend], cell: tuple[int, int]) -> bytes:
    """The sheet as PNG; `cell` is height and width of the room for each picture."""
    width = len(titles) * cell[1]
    cells = [[_fitted(picture, cell) for picture in row.pictures] for row in rows]
    strips = [draw.legend(legend.names, legend.colours, width) for legend in legends]
    sheet = draw.contact_sheet(cells or [[np.full((*cell, 3), 255, np.uint8)]], titles, np.concatenate(strips))
    mapped = _Map(
        rows=tuple(
            _MappedRow(caption=row.caption, tiles=tuple(_tiles(row, number, titles, cell)))
            for number, row in enumerate(rows)
        ),
        legend=tuple(
            (name, (int(r), int(g), int(b)))
            for legend in legends
            for name, (r, g, b) in zip(legend.names, legend.colours, strict=False)
        ),
    )
    note = PngImagePlugin.PngInfo()
    note.add_text(_KEYWORD, json.dumps(mapped.model_dump(mode="json")), zip=True)
    target = io.BytesIO()
    Image.fromarray(sheet).save(target, "png", pnginfo=note)
    return target.getvalue()


def read_sheet(png: bytes) -> ShownSheet | None:
    """The pictures of a sheet, each by itself; nothing where the bytes are no picture."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) if png else None
    if pixels is None:
        return None
    mapped = _map_of(png)
    if mapped is None:
        return ShownSheet((ShownRow("", (_shown("", _narrowed(pixels)),)),), ())
    rows = tuple(ShownRow(row.caption, tuple(_taken(pixels, row.tiles))) for row in mapped.rows)
    return ShownSheet(rows, tuple((name, f"rgb({r} {g} {b})") for name, (r, g, b) in mapped.legend))


def _tiles(row: Row, number: int, titles: Sequence[str], cell: tuple[int, int]) -> Iterator[_Tile]:
    for column, (title, picture) in enumerate(zip(titles, row.pictures, strict=True)):
        top, left = draw.place_on_sheet(number, column, cell)
        height, width = picture.shape[:2]
        over, before = (cell[0] - height) // 2, (cell[1] - width) // 2
        yield _Tile(title=title, left=left + before, top=top + over, width=width, height=height)


def _fitted(picture: draw.Image, cell: tuple[int, int]) -> draw.Image:
    """In the middle of a white cell."""
    height, width = picture.shape[:2]
    top, left = (cell[0] - height) // 2, (cell[1] - width) // 2
    fitted = np.full((*cell, 3), 255, np.uint8)
    fitted[top : top + height, left : left + width] = picture
    return fitted


def _map_of(png: bytes) -> _Map | None:
    try:
        image: Any = PngImagePlugin.PngImageFile(io.BytesIO(png))
        return _Map.model_validate_json(image.info.get(_KEYWORD, ""))
    except (ValidationError, OSError, SyntaxError, ValueError):
        return None


def _taken(pixels: Any, tiles: Sequence[_Tile]) -> Iterator[Shown]:
    for tile in tiles:
        part = pixels[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        if part.size:
            yield _shown(tile.title, part)


def _shown(title: str, bgr: Any) -> Shown:
    """As PNG or JPEG, whichever is smaller: masks are the one, photographs the other."""
    encoded = {
        "png": cv2.imencode(".png", bgr)[1].tobytes(),
        "jpeg": cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes(),
    }
    kind, data = min(encoded.items(), key=lambda entry: len(entry[1]))
    return Shown(title, f"data:image/{kind};base64,{base64.b64encode(data).decode()}", bgr.shape[1], bgr.shape[0])


def _narrowed(pixels: Any) -> Any:
    height, width = pixels.shape[:2]
    if width <= _WHOLE_PX:
        return pixels
    return cv2.resize(pixels, (_WHOLE_PX, max(1, height * _WHOLE_PX // width)), interpolation=cv2.INTER_AREA)
