"""The driver's part of an image whose strips others segment: they come in any order, and are written from the top."""

import os
import platform
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.rasters import row_of
from segpipe.batch.stores import LocalStore, Store
from segpipe.batch.strips import Plan, Strip
from segpipe.errors import InputError
from segpipe.installed import rasters
from segpipe.media.files import open_regular
from segpipe.predicting.done import seal_raster
from segpipe.predicting.job import MASKS, Job


class Writing(NamedTuple):
    """Where an image lies and its mask goes."""

    item: Item
    plan: Plan
    source: Store
    version: Store
    job: Job

    def require_same(self, strip: Strip) -> None:
        """That a strip is of the file that was planned."""
        if strip.sha256 != self.plan.origin.source.sha256:
            raise self.changed()

    def changed(self) -> InputError:
        """Said where it is not."""
        return InputError(f"{self.item.name} was changed while it was read", hint="run the same command again")


def candidates(items: Sequence[Item], processes: int) -> list[Item]:
    """Large images that would keep processes waiting: those that do not come out even, and those beyond their share."""
    if processes < 2:
        return []
    large = sorted((item for item in items if item.by_windows), key=lambda item: item.size, reverse=True)
    share = sum(item.size for item in large) / processes
    return large[: max(len(large) % processes, sum(item.size > share for item in large))]


def pays(plans: Iterable[Plan], processes: int) -> bool:
    """Whether images one after the other, each by all processes, end before images beside each other."""
    found = [*plans]
    return sum(plan.cost(processes) for plan in found) < max((plan.tile_rows for plan in found), default=0)


def written(writing: Writing, strips: Iterable[Strip]) -> Row:
    """The row of an image whose mask has its name when all strips have come."""
    began = time.perf_counter()
    item, plan, source, version, job = writing
    name = f"{MASKS}/{item.picture}"
    with source.local_file(item.place) as path, open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size != plan.size or (isinstance(source, LocalStore) and status.st_mtime_ns != plan.stamp):
            raise writing.changed()
        with version.new_file(name) as part:
            with rasters().new_mask_of(path, file, part, (plan.contract, plan.palette), job) as sink:
                for strip in strips:
                    for top, rows in strip.rows():
                        sink.write(top, rows)
            seal_raster(part, plan.origin, sink.written.as_dict())
    row = row_of(version, item._replace(size=plan.size, stamp=plan.stamp), plan.origin)
    ms = (time.perf_counter() - began) * 1000
    return row._replace(ms=ms, finished_utc=time.time(), worker=f"{platform.node()}:{os.getpid()}")
