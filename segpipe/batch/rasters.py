"""A worker's share of what is read by windows: one large file to a GeoTIFF mask and a row of the index."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.stores import LocalStore, Store
from segpipe.installed import rasters
from segpipe.media.files import open_regular
from segpipe.predicting.done import Origin, Source, proves_raster, record_of_raster, seal_raster
from segpipe.predicting.job import MASKS

if TYPE_CHECKING:
    from segpipe.batch.worker import Worker


def raster_row(worker: "Worker", item: Item) -> tuple[Row, bool]:
    """The row of a file that has its mask, and whether that was made just now."""
    predict, name = rasters(), f"{MASKS}/{item.picture}"
    with worker.source.local_file(item.place) as path, open_regular(path) as file:
        status = os.fstat(file.fileno())
        source = replace(Source.of_file(path, file), path=worker.address(item))
        origin = predict.raster_origin(worker.segmenter, source, worker.job)
        again = worker.job.force or not _proved(worker.version, name, origin)
        if again:
            with worker.version.new_file(name) as part:
                written = predict.write_mask(worker.segmenter, path, file, part, worker.job)
                seal_raster(part, origin, written.as_dict())
    stamp = status.st_mtime_ns if isinstance(worker.source, LocalStore) else item.stamp
    return _row(worker, item._replace(size=status.st_size, stamp=stamp), source), again


def record_there(store: Store, name: str) -> dict[str, Any]:
    """The record behind a mask; an empty one where there is none."""
    if store.entry(name) is None:
        return {}
    with store.open(name) as file:
        return record_of_raster(file)


def _proved(store: Store, name: str, origin: Origin) -> bool:
    if store.entry(name) is None:
        return False
    with store.open(name) as file:
        return proves_raster(file, origin)


def _row(worker: "Worker", item: Item, source: Source) -> Row:
    """Told by what was written: one that is found again is the same."""
    name = f"{MASKS}/{item.picture}"
    shows, entry = record_there(worker.version, name)["shows"], worker.version.entry(name)
    height, width = shows["size"]
    return Row(
        path=item.name, size=item.size, mtime_ns=item.stamp, sha256=source.sha256,
        artifact_sha256=worker.segmenter.artifact_sha256, device=worker.segmenter.describe()["device"],
        mask=name, mask_bytes=entry.size if entry else 0, height=height, width=width,
        shares=[count / (height * width) for count in shows["counts"]],
    )  # fmt: skip
