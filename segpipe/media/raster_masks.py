"""Masks as GeoTIFF, written row by row: tiled, compressed, in the classes' colours, with overviews."""

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window

from segpipe.errors import StorageError
from segpipe.media.rasters import Raster

_BLOCK = 512
_LEAST_OVERVIEW = 256
"""Pixels along the longer side of the smallest overview, about."""
_MOST_COLOURS = 256
_FORM = {
    "driver": "GTiff", "count": 1, "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "DEFLATE",
    "bigtiff": "IF_SAFER",
}  # fmt: skip


class RasterMask:
    """Takes rows from top to bottom, and writes them where they belong a line of blocks at a time."""

    def __init__(self, dataset: Any, palette: Sequence[Sequence[int]]) -> None:
        self._dataset, self._height = dataset, dataset.height
        self._waiting = np.empty((_BLOCK, dataset.width), dataset.dtypes[0])
        self._row = 0
        self.crc = 0
        """Of all rows so far."""
        if dataset.dtypes[0] == "uint8" and len(palette) <= _MOST_COLOURS:
            dataset.write_colormap(1, {number: (*colour, 255) for number, colour in enumerate(palette)})
            dataset.colorinterp = (ColorInterp.palette,)

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Take the rows from `top` on, which follow those before."""
        assert top == self._row, f"row {top} came after row {self._row}"
        self.crc = zlib.crc32(np.ascontiguousarray(rows).data, self.crc)
        for row in _parts(rows, _BLOCK - self._row % _BLOCK):
            at = self._row % _BLOCK
            self._waiting[at : at + len(row)] = row
            self._row += len(row)
            if self._row % _BLOCK == 0 or self._row == self._height:
                begin = (self._row - 1) // _BLOCK * _BLOCK
                window = Window(0, begin, self._waiting.shape[1], self._row - begin)
                self._dataset.write(self._waiting[: self._row - begin], 1, window=window)


def _parts(rows: NDArray[Any], first: int) -> Iterator[NDArray[Any]]:
    """The first so many rows, and the rest by whole blocks."""
    if first < len(rows):
        yield rows[:first]
        yield from _parts(rows[first:], _BLOCK)
    else:
        yield rows


@contextmanager
def new_mask(path: Path, of: Raster, dtype: str, nodata: int, palette: Sequence[Sequence[int]]) -> Iterator[RasterMask]:
    """A mask of a raster, at its place; overviews are added in the end, and all is read again. Inside `gdal()`.

    A disk that is full is not always told where it happens: what was written counts when it comes back as it went.
    """
    height, width = of.size
    profile = {"height": height, "width": width, "dtype": dtype, "nodata": nodata, **_FORM, **of.placed()}
    try:
        with rasterio.open(path, "w", **profile) as dataset:
            dataset.update_tags(**of.tags())
            if (gcps := of.dataset.gcps)[0]:
                dataset.gcps = gcps
            yield (mask := RasterMask(dataset, palette))
        with rasterio.open(path, "r+", driver="GTiff") as dataset:
            dataset.build_overviews(_factors(height, width), Resampling.nearest)
        with rasterio.open(path, driver="GTiff") as dataset:
            whole = _crc(dataset) == mask.crc
    except RasterioError as error:
        raise _refused(of.path, " ".join(str(error.__cause__ or error).split())) from error
    if not whole:
        raise _refused(of.path, "what was written does not come back")


def _factors(height: int, width: int) -> list[int]:
    """Each level of overviews is half as large as the one before."""
    levels = max(height, width) // _LEAST_OVERVIEW
    return [2**level for level in range(1, levels.bit_length())]


def _crc(dataset: Any) -> int:
    crc = 0
    for top in range(0, dataset.height, _BLOCK):
        window = Window(0, top, dataset.width, min(_BLOCK, dataset.height - top))
        crc = zlib.crc32(dataset.read(1, window=window), crc)
    return crc


def _refused(image: Path, reason: str) -> StorageError:
    return StorageError(
        f"cannot write the mask of {image}: {reason}",
        hint="free some space and run the same command again; nothing finished is lost",
    )
