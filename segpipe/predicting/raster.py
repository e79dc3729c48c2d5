"""A TIFF of any size to a mask that is one, by rows: `predict` and `batch` both ask here."""

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.media.files import open_regular
from segpipe.media.images import require_pixels
from segpipe.media.raster_masks import RasterMask, new_mask
from segpipe.media.rasters import Raster, gdal
from segpipe.predicting.done import Origin, Source, is_done, seal_raster
from segpipe.predicting.job import MASKS, Job, Predicted
from segpipe.predicting.publishing import whole
from segpipe.regions import count_pixels
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.tiling import Progress, Tiling, tile_size

_log = logging.getLogger(__name__)

SUFFIX = ".tif"
"""Of the mask, whatever its source has."""
_TOLD_S = 30.0
_one_at_a_time = threading.Lock()  # each fills memory and cores; GDAL's settings are the process's


@dataclass(frozen=True)
class Written:
    """What a mask shows."""

    size: tuple[int, int]
    counts: tuple[int, ...]
    """Pixels of each class."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


def predict_raster(segmenter: Segmenter, path: Path, job: Job) -> Predicted:
    """The mask of a TIFF, unless it is there. Its overlay is itself: it has the colours of its classes."""
    target = mask_of(job, path)
    predicted = Predicted(path, target, target)
    with open_regular(path) as file:
        origin = raster_origin(segmenter, Source.of_file(path, file), job)
        if not job.force and is_done(target, origin):
            return replace(predicted, skipped=True)
        with whole(target, job.out) as part:
            seal_raster(part, origin, write_mask(segmenter, path, file, part, job).as_dict())
    return predicted


def mask_of(job: Job, path: Path) -> Path:
    """Where the mask of a raster goes."""
    target = job.target(MASKS, path)
    return target.with_name(f"{target.name}{SUFFIX}")


def raster_origin(segmenter: Segmenter, source: Source, job: Job) -> Origin:
    """What decides the pixels of a raster's mask."""
    origin = job.origin(segmenter, source, MASKS)
    return replace(origin, options={**origin.options, "tiled": True, "geotiff": True})


def write_mask(segmenter: Segmenter, path: Path, file: BufferedReader, part: Path, job: Job) -> Written:
    """The mask of an open TIFF into a new file. Pixels without data have the contract's `ignore_index`."""
    means = segmenter.contract, segmenter.palette
    with _one_at_a_time, new_mask_of(path, file, part, means, job) as sink:
        segmenter.tiled_rows(sink.raster, sink.write_all, progress=_told(path))
    return sink.written


def count_tile_rows(segmenter: Segmenter, path: Path, file: BufferedReader, job: Job) -> int:
    """Into how many rows of tiles an open TIFF is cut."""
    with _one_at_a_time, gdal(), _opened(path, file, segmenter.contract, job) as raster:
        return segmenter.tile_rows(raster)


def rows_of_mask(
    segmenter: Segmenter, path: Path, file: BufferedReader, job: Job, wanted: range
) -> list[tuple[int, NDArray[Any]]]:
    """What some rows of tiles settle of a mask, holes cut out: numbers of rows, and those rows with the ones after."""
    found: list[tuple[int, NDArray[Any]]] = []
    with _one_at_a_time, gdal(), _opened(path, file, segmenter.contract, job) as raster:

        def keep(top: int, rows: NDArray[Any]) -> None:
            found.append((top, _with_holes(raster, top, rows, segmenter.contract)))

        segmenter.tiled_rows(raster, keep, progress=_told(path), wanted=wanted)
    return found


@contextmanager
def new_mask_of(
    path: Path, file: BufferedReader, part: Path, means: tuple[Contract, Sequence[Sequence[int]]], job: Job
) -> Iterator["Sink"]:
    """A new mask of an open TIFF, to be filled from top to bottom; `means`: the contract and the palette."""
    (contract, palette), before = means, os.fstat(file.fileno())
    with (
        gdal(),
        _reachable(part) as place,
        _opened(path, file, contract, job) as raster,
        new_mask(place, raster, contract.mask_dtype, contract.ignore_index, palette) as mask,
    ):
        yield Sink(raster, mask, contract)
    after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path} was changed while it was read", hint="run the same command again")


class Sink:
    """Rows of a mask on their way into its file; classes are counted."""

    def __init__(self, raster: Raster, mask: RasterMask, contract: Contract) -> None:
        self.raster, self._mask, self._contract = raster, mask, contract
        self._counts = np.zeros(len(contract.classes), np.int64)

    @property
    def written(self) -> Written:
        """What was taken so far."""
        return Written(self.raster.size, tuple(map(int, self._counts)))

    def write_all(self, top: int, rows: NDArray[Any]) -> None:
        """Take some rows in which nobody has cut out holes."""
        self.write(top, _with_holes(self.raster, top, rows, self._contract))

    def write(self, top: int, rows: NDArray[Any]) -> None:
        """Take some rows."""
        self._counts += count_pixels(rows, len(self._counts))
        self._mask.write(top, rows)


def _with_holes(raster: Raster, top: int, rows: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """The same rows, without a class where there is no data."""
    if (holes := raster.holes(top, top + len(rows))) is not None:
        rows[holes] = contract.ignore_index
    return rows


@contextmanager
def _reachable(part: Path) -> Iterator[Path]:
    """A name of a new file that GDAL takes, whatever its folder is called."""
    folder = os.open(part.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/dev/fd/{folder}/mask")
        os.rename("mask", part.name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(folder)


@contextmanager
def _opened(path: Path, file: BufferedReader, contract: Contract, job: Job) -> Iterator[Raster]:
    """One whose row of tiles, which is what is in memory, is not too long."""
    with closing(Raster(path, file, contract, job.max_pixels)) as raster:
        rows = min(tile_size(contract, Tiling())[0], raster.size[0])
        require_pixels(f"a row of tiles of {path}", rows, raster.size[1], job.max_pixels)
        yield raster


def _told(path: Path) -> Progress:
    """A line now and then: it may take hours."""
    told_s = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s > _TOLD_S:
            told_s = time.monotonic()
            _log.info("%s: %d of %d tiles", path, done, total)

    return progress
