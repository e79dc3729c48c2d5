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
        origin = predict.raster_origin(worker.of_masks, source, worker.job)
        again = worker.job.force or not proved(worker.version, name, origin)
        if again:
            with worker.version.new_file(name) as part:
                written = predict.write_mask(worker.of_masks, path, file, part, worker.job)
                seal_raster(part, origin, written.as_dict())
    now = item._replace(size=status.st_size, stamp=stamp_of(worker.source, item, status))
    return row_of(worker.version, now, origin), again


def stamp_of(source: Store, item: Item, status: os.stat_result) -> int:
    """When an image was changed, as a listing will show it; of a copy nothing is told by its own."""
    return status.st_mtime_ns if isinstance(source, LocalStore) else item.stamp


def record_there(store: Store, name: str) -> dict[str, Any]:
    """The record behind a mask; an empty one where there is none."""
    if store.entry(name) is None:
        return {}
    with store.open(name) as file:
        return record_of_raster(file)


def proved(store: Store, name: str, origin: Origin) -> bool:
    """Whether a mask is there, byte for byte as it was made of this origin."""
    if store.entry(name) is None:
        return False
    with store.open(name) as file:
        return proves_raster(file, origin)


def row_of(version: Store, item: Item, origin: Origin) -> Row:
    """Told by what was written: one that is found again is the same."""
    name = f"{MASKS}/{item.picture}"
    shows, entry = record_there(version, name)["shows"], version.entry(name)
    height, width = shows["size"]
    return Row(
        path=item.name, size=item.size, mtime_ns=item.stamp, sha256=origin.source.sha256,
        artifact_sha256=origin.artifact_sha256, device=origin.device,
        mask=name, mask_bytes=entry.size if entry else 0, height=height, width=width,
        shares=[count / (height * width) for count in shows["counts"]],
    )  # fmt: skip
