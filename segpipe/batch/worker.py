"""One process's share of the work: images to masks in a store, and a row of the index for each."""

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.products import content_of, is_proved, name_of, record_in_bytes, sealed
from segpipe.batch.rasters import raster_row, record_there
from segpipe.batch.stores import GONE, Content, LocalStore, Store
from segpipe.batch.version import Output
from segpipe.errors import InputError, SegpipeError
from segpipe.id_maps import classes_in
from segpipe.instances import Instances, coco_document
from segpipe.predicting.done import Origin, Source
from segpipe.predicting.image import concerns_one, mask_of, segment
from segpipe.predicting.job import CONFIDENCE, MASKS, THINGS, AnySegmenter, Job
from segpipe.predicting.ownership import TakenError
from segpipe.regions import count_pixels
from segpipe.result import Result
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.streaming import ordered

_WORKERS = 2  # one image is decoded or encoded while the network has another
_READERS, _REMOTE_READERS = 2, 8  # a store that is far away answers late, and many at once


@dataclass(frozen=True)
class Worker:
    """Reads from one store and writes to another; used by one thread at a time."""

    segmenter: AnySegmenter
    source: Store
    version: Store
    """The folder of this artifact."""
    job: Job
    outputs: tuple[Output, ...] = ("mask",)

    @property
    def of_masks(self) -> Segmenter:
        """The segmenter of rasters: a version of things has none."""
        assert isinstance(self.segmenter, Segmenter)
        return self.segmenter

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """What became of each image, in order. A StorageError that the next image would meet too is raised."""
        readers = _READERS if isinstance(self.source, LocalStore) else _REMOTE_READERS
        with_contents = ordered(lambda item: (item, self._read(item)), items, readers)
        return ordered(lambda pair: self._row(*pair), with_contents, _WORKERS)

    def _read(self, item: Item) -> Content | InputError:
        try:
            if item.size == GONE:
                raise InputError(f"{item.name} does not exist", hint="check the list")
            if item.by_windows:
                return Content(b"", GONE)
            content = self.source.read(item.place, max(item.start, 0), item.size if item.start >= 0 else -1)
        except InputError as error:
            return error
        if item.start >= 0 and len(content.data) != item.size:
            return InputError(f"{item.name} is cut off inside {item.place}", hint="copy the archive again")
        return content

    def _row(self, item: Item, content: Content | InputError) -> Row:
        began = time.perf_counter()
        try:
            if isinstance(content, InputError):
                raise content
            row, again = raster_row(self, item) if item.by_windows else self._done(item, content)
        except SegpipeError as error:
            if not concerns_one(error):
                raise
            row, again = self._broken(item, content, error), True
        ms = None if row.error or not again else (time.perf_counter() - began) * 1000
        return row._replace(ms=ms, finished_utc=time.time(), worker=f"{platform.node()}:{os.getpid()}")

    def _done(self, item: Item, content: Content) -> tuple[Row, bool]:
        """The row of an image that has its pictures, and whether they were made just now."""
        source = Source(self.address(item), len(content.data), sha256_of_bytes(content.data))
        origins = {folder: self.job.origin(self.segmenter, source, folder) for folder in self._folders}
        there = {folder: self._there(name_of(folder, item)) for folder in origins}
        if not self.job.force and all(is_proved(name, there[name], origin) for name, origin in origins.items()):
            found = {folder: content_of(folder, name_of(folder, item), data) for folder, data in there.items()}
            return self._measured(item, content, source, found, len(there[MASKS])), False
        self._require_ours(item, there)
        _, answer, confidence = segment(self.segmenter, Path(item.name), content.data, self.job)
        pictures: dict[str, Any] = {MASKS: mask_of(answer)}
        if isinstance(answer, Instances):
            pictures[THINGS] = coco_document(answer, item.name)
        if confidence is not None:
            pictures[CONFIDENCE] = np.round(confidence * 255).astype(np.uint8)
        sizes = {folder: self._write(item, folder, pictures[folder], origins[folder]) for folder in origins}
        return self._measured(item, content, source, pictures, sizes[MASKS]), True

    @property
    def _folders(self) -> tuple[str, ...]:
        """Of what is made of an image; the mask's last, with which it is done."""
        things = isinstance(self.segmenter, InstanceSegmenter)
        return (*[THINGS] * things, *[CONFIDENCE] * self.job.confidence, MASKS)

    def _write(self, item: Item, folder: str, content: Any, origin: Origin) -> int:
        name = name_of(folder, item)
        data = sealed(folder, name, content, origin)
        self.version.write(name, data)
        return len(data)

    def _there(self, name: str) -> bytes:
        """The bytes of a picture; none where there is none. What cannot be read is not ours to replace."""
        if not self.version.entry(name):
            return b""
        try:
            return self.version.read(name).data
        except InputError as error:
            raise TakenError(f"{error.message}, and would be replaced", hint="move it") from None

    def _require_ours(self, item: Item, there: Mapping[str, bytes]) -> None:
        for folder, data in there.items():
            name = name_of(folder, item)
            if self.version.is_link(name) or (data and not record_in_bytes(folder, data)):
                what = "is a link" if self.version.is_link(name) else "carries no record of segpipe"
                raise TakenError(
                    f"{item.name}: {self.version.address(name)} {what}, and would be replaced", hint="move it"
                )

    def _is_ours(self, item: Item, name: str) -> bool:
        if self.version.is_link(name):
            return False
        try:
            if item.by_windows:
                return bool(record_there(self.version, name))
            return bool(record_in_bytes(name.partition("/")[0], self._there(name)))
        except InputError:  # a FIFO, or closed to us
            return False

    def address(self, item: Item) -> str:
        """How an image is called from outside."""
        inside = item.name.removeprefix(item.place) if item.start >= 0 else ""
        return f"{self.source.address(item.place)}{inside}"

    def _measured(self, item: Item, content: Content, source: Source, pictures: Mapping[str, Any], size: int) -> Row:
        """A row is told by the written pictures alone: one that is made again, or found again, is the same."""
        mask, sure, things = pictures[MASKS], pictures.get(CONFIDENCE), pictures.get(THINGS)
        counts = count_pixels(classes_in(mask) if things else mask, len(self.segmenter.contract.classes))
        return Row(
            path=item.name,
            size=_size_of(item, content),
            mtime_ns=_stamp_of(item, content),
            sha256=source.sha256,
            artifact_sha256=self.segmenter.artifact_sha256,
            device=self.segmenter.describe()["device"],
            mask=f"{MASKS}/{item.picture}",
            mask_bytes=size,
            height=mask.shape[0],
            width=mask.shape[1],
            shares=[float(count) / mask.size for count in counts],
            mean_confidence=None if sure is None else float(sure.mean()) / 255,
            rle=json.dumps(self._run_lengths(mask, things)) if "rle" in self.outputs else None,
        )

    def _run_lengths(self, mask: NDArray[Any], things: Mapping[str, Any] | None) -> Any:
        """COCO's: by class, or the entries of each thing."""
        if isinstance(self.segmenter, InstanceSegmenter):
            return things["annotations"] if things else []
        return Result(mask, self.segmenter.contract, self.segmenter.palette).rle()

    def _broken(self, item: Item, content: Content | InputError, error: SegpipeError) -> Row:
        """What was made of it before goes: a mask that lies there is one of what its source holds now."""
        for folder in self._folders:
            name = name_of(folder, item)
            if self._is_ours(item, name):
                self.version.remove(name)
        stamp = item.stamp if isinstance(content, InputError) else _stamp_of(item, content)
        return Row(path=item.name, size=item.size, mtime_ns=stamp, error=str(error))


def _stamp_of(item: Item, content: Content) -> int:
    """Of the file that was read; where a store does not tell, of the listing, so a newer one is looked at again."""
    return item.stamp if content.stamp == GONE else content.stamp


def _size_of(item: Item, content: Content) -> int:
    """As a listing will show it: of the file, also where it was changed since the last one."""
    return item.size if item.start >= 0 else len(content.data)
