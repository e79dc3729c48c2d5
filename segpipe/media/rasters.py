"""TIFFs of any size, read by rows: GeoTIFF, BigTIFF, pyramids of slides. Owns rasterio.

GDAL gets no name but a descriptor's: it would look for files beside it, take some names for addresses, and refuse names
that are no UTF-8. So what lies beside a file (`.ovr`, `.msk`, `.aux.xml`) is not read, apart from a world file.
"""

import logging
import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import ExifTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from rasterio.enums import ColorInterp, MaskFlags, PhotometricInterp
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from segpipe.contract.schema import FrameContract
from segpipe.errors import InputError, StorageError
from segpipe.media.images import require_pixels
from segpipe.rundir.storage import read_bounded

_CACHE_MB = 128
"""Of decoded blocks; GDAL takes a twentieth of the machine's memory by itself."""
_SETTINGS = {"GDAL_CACHEMAX": _CACHE_MB, "GDAL_PAM_ENABLED": "NO", "GDAL_NUM_THREADS": "1"}
_PIXELS_A_BYTE = 10_000
"""More pixels than this for each byte of a file are a claim, and hours of work for nothing."""
_AGAIN = "copy or make it again"
_COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
_MICRONS = re.compile(r"MPP = ([0-9]{1,9}(?:\.[0-9]{1,20})?)(?![0-9.])")
"""A slide's pixel, as Aperio's scanners tell it."""
_OWN_NAME = re.compile(r"'?(?:/dev/fd/)?\b\d+'?(?:, |: | )(?=band|not recognized)|/dev/fd/")
"""How GDAL calls a descriptor."""
_WORLD_FILES = (".tfw", ".tifw", ".wld")
_WORLD_FILE_BYTES = 4096

logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what it says there is in its errors, too


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL with our settings, silent where nothing is wrong."""
    with rasterio.Env(**_SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rasterio: no place on the earth; of Pillow: tags that are cut off
        yield


class Raster:
    """An open TIFF: its size, its rows, and where it lies. Used by one thread, inside `gdal()`."""

    def __init__(self, path: Path, file: BufferedReader, contract: FrameContract, most_pixels: int) -> None:
        self.path = path
        with _explained(path):
            self.dataset: Any = rasterio.open(f"/dev/fd/{file.fileno()}", driver="GTiff")
        try:
            self.size: tuple[int, int] = (self.dataset.height, self.dataset.width)
            self._require_usual(file, most_pixels)
            self._bands = self._chosen(contract)
        except BaseException:
            self.dataset.close()
            raise
        self._top, self._kept = 0, np.empty((0, self.size[1], contract.channels), contract.dtype)

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """Some rows, HxWxC. Those that a call shares with the one before are not decoded again."""
        known = self._kept[max(top - self._top, 0) :][: bottom - top]
        rows = np.empty((bottom - top, *self._kept.shape[1:]), self._kept.dtype)
        rows[: len(known)] = known
        if len(known) < len(rows):
            with _explained(self.path):
                planes = self.dataset.read(self._bands, window=self._window(top + len(known), bottom))
            rows[len(known) :] = planes.transpose(1, 2, 0)
        self._top, self._kept = top, rows
        return rows

    def holes(self, top: int, bottom: int) -> NDArray[np.bool_] | None:
        """Where some rows have no data; None where the file says that it is all there."""
        if all(flags == [MaskFlags.all_valid] for flags in self.dataset.mask_flag_enums):
            return None
        with _explained(self.path):
            found: NDArray[np.bool_] = self.dataset.dataset_mask(window=self._window(top, bottom)) == 0
        return found

    def placed(self) -> dict[str, Any]:
        """Where it lies on the earth, as rasterio's profiles have it; empty where nobody said."""
        if not self.dataset.transform.is_identity:
            return {"crs": self.dataset.crs, "transform": self.dataset.transform}
        found = {"transform": world} if (world := _world_file(self.path)) else {}
        return found | ({"crs": self.dataset.crs} if self.dataset.crs else {})

    def tags(self) -> dict[str, str]:
        """What else says how large a pixel is, or what its place means."""
        own: dict[str, str] = self.dataset.tags()
        wanted = ("AREA_OR_POINT", "TIFFTAG_XRESOLUTION", "TIFFTAG_YRESOLUTION", "TIFFTAG_RESOLUTIONUNIT")
        kept = {name: own[name].split()[0] for name in wanted if own.get(name)}
        microns = _MICRONS.search(own.get("TIFFTAG_IMAGEDESCRIPTION", ""))
        if microns and "TIFFTAG_XRESOLUTION" not in kept and float(microns[1]) > 0:
            per_cm = f"{1e4 / float(microns[1]):.6f}"
            kept |= {"TIFFTAG_XRESOLUTION": per_cm, "TIFFTAG_YRESOLUTION": per_cm, "TIFFTAG_RESOLUTIONUNIT": "3"}
        return kept

    def close(self) -> None:
        """Free it."""
        self.dataset.close()

    def _window(self, top: int, bottom: int) -> Window:
        return Window(0, top, self.size[1], bottom - top)

    def _require_usual(self, file: BufferedReader, most_pixels: int) -> None:
        """Refuse what would be read as something else than it is, and what would not end or not fit into memory."""
        path, (height, width) = self.path, self.size
        if height * width > _PIXELS_A_BYTE * os.fstat(file.fileno()).st_size:
            raise InputError(f"{path} claims {height}x{width} pixels, more than its bytes can hold", hint=_AGAIN)
        if self.dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE"):
            raise InputError(f"{path} is a TIFF in which 0 is white (MinIsWhite)", hint="save it with 0 as black")
        if (turn := _orientation(file)) != 1:
            raise InputError(f"{path} is to be turned when it is shown (EXIF {turn})", hint="save it upright")
        for block in self.dataset.block_shapes:
            rows, columns = block
            require_pixels(f"a block of {path}, which is decoded in one piece,", rows, columns, most_pixels)
        self._require_one_picture()

    def _require_one_picture(self) -> None:
        """The levels of a pyramid are smaller than the first, and so are a slide's label and its whole at a glance."""
        for name in self.dataset.subdatasets[1:]:
            with _explained(self.path), rasterio.open(name) as other:
                if other.height >= self.size[0] or other.width >= self.size[1]:
                    count = len(self.dataset.subdatasets)
                    raise InputError(f"{self.path} holds {count} pictures", hint="save each as a file of its own")

    def _chosen(self, contract: FrameContract) -> list[int]:
        """Numbers of the bands that the network takes: all but transparency, red, green and blue in this order."""
        of = dict(enumerate(self.dataset.colorinterp, 1))
        if ColorInterp.palette in of.values():
            hint = "turn its numbers into colours: gdal_translate -expand rgb"
            raise InputError(f"{self.path} has a palette, whose numbers are no colours", hint=hint)
        if self.dataset.photometric == PhotometricInterp.cmyk:  # GDAL would make RGB of it
            raise InputError(f"{self.path} is CMYK, whose colours depend on a profile", hint="convert it to RGB")
        bands = [number for number, colour in of.items() if colour != ColorInterp.alpha]
        types = {self.dataset.dtypes[number - 1] for number in bands}
        if len(bands) != contract.channels or types != {contract.dtype}:
            found = f"{len(bands)} bands of {' and '.join(sorted(types))}"
            raise InputError(
                f"{self.path} has {found}, the network takes {contract.channels} of {contract.dtype}",
                hint="choose bands with gdal_translate -b, turn numbers into others with -ot and -scale",
            )
        if {of[number] for number in bands} == {*_COLOURS}:
            return [next(number for number in bands if of[number] == colour) for colour in _COLOURS]
        return bands


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        reason = _OWN_NAME.sub("", " ".join(str(error.__cause__ or error).split()))
        raise InputError(f"{path} is damaged, or no TIFF that GDAL reads: {reason}", hint=_AGAIN) from None


def _orientation(file: BufferedReader) -> int:
    """How the first picture is turned, which GDAL does not tell; 1 is upright."""
    try:
        file.seek(0)
        header = file.read(8)
        directory = ImageFileDirectory_v2(header + (file.read(8) if 43 in header[2:4] else b""))  # BigTIFF's is longer
        file.seek(directory.next)
        directory.load(file)
        return int(directory.get(ExifTags.Base.Orientation, 1))
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error):  # GDAL has read it: so be it
        return 1


def _world_file(path: Path) -> Affine | None:
    """Six numbers in a file of the same name: where pixels lie, when the TIFF itself does not say."""
    for suffix in _WORLD_FILES:
        try:
            numbers = [*map(float, read_bounded(path.with_suffix(suffix), _WORLD_FILE_BYTES).split())]
            if len(numbers) == 6 and np.isfinite(numbers).all():
                a, d, b, e, c, f = numbers
                return Affine(a, b, c, d, e, f) * Affine.translation(-0.5, -0.5)  # it tells centres of pixels
        except (OSError, ValueError, StorageError):
            continue
    return None
