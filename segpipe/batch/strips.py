"""One large image in strips: into which it is cut, and what a process answers of it.

A strip is what some rows of tiles settle of the mask. Its process works on the rows of tiles before them once more, so
few large strips cost less, and many small ones leave fewer processes waiting.
"""

import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe.batch.items import Item
from segpipe.batch.rasters import proved, stamp_of
from segpipe.batch.stores import Store
from segpipe.contract.schema import Contract
from segpipe.installed import rasters
from segpipe.media.files import open_regular
from segpipe.predicting.done import Origin, Source
from segpipe.predicting.job import MASKS

if TYPE_CHECKING:
    from segpipe.batch.worker import Worker

_MOST_ROWS = 8
"""Rows of tiles to a strip: one more is worked on, an eighth more work."""
_FAST = 1  # of zlib's levels: masks are large areas of one number


class Plan(NamedTuple):
    """What the driver has to know to write the mask of an image that others segment."""

    origin: Origin
    contract: Contract
    palette: tuple[tuple[int, int, int], ...]
    tile_rows: int
    size: int
    """Of the file, and when it was changed."""
    stamp: int

    def strips(self, processes: int) -> list[range]:
        """Rows of tiles of each: as many strips as keep that many processes busy equally long."""
        rounds = -(-self.tile_rows // (_MOST_ROWS * processes))
        each = -(-self.tile_rows // (processes * rounds))
        return [range(begin, min(begin + each, self.tile_rows)) for begin in range(0, self.tile_rows, each)]

    def cost(self, processes: int) -> int:
        """For how many rows of tiles' time that many processes are taken."""
        strips = self.strips(processes)
        return -(-len(strips) // processes) * (len(strips[0]) + (len(strips) > 1))


class Strip(NamedTuple):
    """Rows of a mask, in pieces, and the hash of the file that they are of."""

    sha256: str
    stop: int
    """The row of tiles behind it."""
    width: int
    dtype: str
    pieces: list[tuple[int, bytes]]
    """The number of the first row, and the deflated rows."""

    def rows(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Numbers of rows, and those rows with the ones after."""
        for top, data in self.pieces:
            yield top, np.frombuffer(zlib.decompress(data), self.dtype).reshape(-1, self.width)


class Kept:
    """The file that a process works on, open and hashed as long as it is asked for the same one."""

    def __init__(self) -> None:
        self._ending = ExitStack()
        self._item: Item | None = None
        self._open: tuple[Path, BufferedReader, Source]

    def opened(self, store: Store, item: Item) -> tuple[Path, BufferedReader, Source]:
        """Its path, the file and its hash. A copy of an object has no name any more: it goes with the process."""
        if item != self._item:
            self.close()
            with store.local_file(item.place) as path:
                file = self._ending.enter_context(open_regular(path))
            self._open, self._item = (path, file, Source.of_file(path, file)), item
        return self._open

    def close(self) -> None:
        """Keep none."""
        self._item = None
        self._ending.close()


def plan_of(worker: "Worker", item: Item, kept: Kept) -> Plan | None:
    """How an image is cut; None where its mask is there."""
    predict, segmenter = rasters(), worker.of_masks
    path, file, found = kept.opened(worker.source, item)
    status, source = os.fstat(file.fileno()), replace(found, path=worker.address(item))
    origin = predict.raster_origin(segmenter, source, worker.job)
    if not worker.job.force and proved(worker.version, f"{MASKS}/{item.picture}", origin):
        return None
    count = predict.count_tile_rows(segmenter, path, file, worker.job)
    stamp = stamp_of(worker.source, item, status)
    return Plan(origin, segmenter.contract, segmenter.palette, count, status.st_size, stamp)


def strip_of(worker: "Worker", item: Item, kept: Kept, wanted: range) -> Strip:
    """What some rows of tiles settle of its mask."""
    path, file, source = kept.opened(worker.source, item)
    found = rasters().rows_of_mask(worker.of_masks, path, file, worker.job, wanted)
    width, dtype = found[0][1].shape[1], str(found[0][1].dtype)
    pieces = [(top, zlib.compress(rows.tobytes(), _FAST)) for top, rows in found]
    return Strip(source.sha256, wanted.stop, width, dtype, pieces)
