"""One `batch` command: what is found, what is done, who does the rest, and what is written down of it."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from segpipe.batch.alone import alone
from segpipe.batch.before import warn_of_room
from segpipe.batch.index import Files, Log, Row, at_one_moment
from segpipe.batch.items import WHOLE, Item, Shard, of_shard
from segpipe.batch.latest import Latest
from segpipe.batch.products import name_of
from segpipe.batch.sources import Source, find
from segpipe.batch.status import State, duration
from segpipe.batch.stores import GONE, Store, open_store, plain
from segpipe.batch.version import Output, Version
from segpipe.batch.worker import Worker
from segpipe.errors import InputError, SegpipeError
from segpipe.predicting.job import MASKS, Advance, AnySegmenter, Job

_log = logging.getLogger(__name__)

_SHOWN = 20
"""Broken images that get a line; the index has all."""
_TOLD_S = 30.0
"""Between two lines in a log; a terminal has a bar."""
_LOOKED_UP = 100_000
"""Images that the index is asked for at a time."""
_FIRST = 50
"""Images after which it can be said how long the rest takes."""


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    source: str
    out: str
    job: Job
    version: Version
    shard: Shard = WHOLE


Progress = Callable[[int], AbstractContextManager[Advance]]
"""Told how many images there are; gives what is told of each."""


class Crew(Protocol):
    """Who segments."""

    def rows(self, items: Iterable[Item], source: Source, version: Store) -> Iterator[Row]:
        """What became of each image, in any order."""
        ...


@dataclass(frozen=True)
class Here:
    """The crew that is this process."""

    segmenter: AnySegmenter
    job: Job
    outputs: tuple[Output, ...]

    def rows(self, items: Iterable[Item], source: Source, version: Store) -> Iterator[Row]:
        return Worker(self.segmenter, source.store, version, self.job, self.outputs).rows(items)


def predict_batch(crew: Crew, request: Request, progress: Progress) -> State:
    """Do what is not done. Whatever ends it, what was done is kept, and the same command goes on."""
    source = find(request.source, request.job.rasters)
    _refuse_inside(request, source)
    store = open_store(f"{request.out}/{request.version.folder}")
    items = of_shard(source.items, request.shard)
    with alone(store, request.shard):
        request.version.write(store)
        store.sweep("")
        session = Files.of(store).next_session
        left = items
        if not request.job.force:
            left = at_one_moment(store, lambda files: _left(items, files, request.version))
        log = Log(store, str(request.shard), session)
        state = State(store.address(), session, str(request.shard), len(items), len(items) - len(left))
        broken = [_unopened(name, why) for name, why in source.broken.items() if request.shard.holds(name)]
        try:
            rows = crew.rows(left, source, store)
            with progress(len(items)) as tick:
                tick(state.skipped, skipped=True)
                return _follow([broken, rows], log, state, tick)
        except BaseException:
            with suppress(SegpipeError):
                log.close()
            raise
        finally:
            store.sweep("")


def _follow(sources: Iterable[Iterable[Row]], log: Log, state: State, tick: Advance) -> State:
    began = told_s = time.monotonic()
    written, written_bytes = 0, 0
    for row in (row for rows in sources for row in rows):
        tick(1, skipped=row.ms is None)
        state = replace(
            state, done=state.done + (not row.error), broken=state.broken + bool(row.error),
            seconds=time.monotonic() - began,
        )  # fmt: skip
        if row.error and state.broken <= _SHOWN:
            _log.error("%s", row.error if row.path in row.error else f"{row.path}: {row.error}")
        if row.ms is not None:
            written, written_bytes = written + 1, written_bytes + row.mask_bytes
        if state.done + state.broken == _FIRST and state.left:
            _log.info("%s", told(state))
            warn_of_room(log.store, written_bytes, written, state.left)
        if log.add(row):
            state.write(log.store)
        if not sys.stderr.isatty() and time.monotonic() - told_s > _TOLD_S:
            told_s = time.monotonic()
            _log.info("%s", told(state))
    log.close()
    state.write(log.store)
    return state


def told(state: State) -> str:
    """How far it is, in a line."""
    speed = state.images_per_s
    left = f", {state.left} left, about {duration(state.left / speed)}" if state.left and speed else ""
    fast = f", {speed:.1f} images/s" if speed else ""
    return f"{state.skipped + state.done} of {state.found} images are done{fast}{left}"


def _left(items: list[Item], files: Files, version: Version) -> list[Item]:
    """Those that the index and their mask do not prove to be done: the rest is looked at, and proved by its bytes."""
    latest, size_of = Latest.of(files), files.store.sizes(MASKS)
    beside = {folder: files.store.sizes(folder) for folder in version.beside}

    def is_done(item: Item, mask_bytes: int) -> bool:
        return (
            mask_bytes != GONE
            and size_of(f"{MASKS}/{item.picture}") == mask_bytes
            and all(sizes(name_of(folder, item)) > 0 for folder, sizes in beside.items())
        )

    left: list[Item] = []
    for start in range(0, len(items), _LOOKED_UP):
        some = items[start : start + _LOOKED_UP]
        left += (item for item, size in zip(some, latest.mask_bytes(some), strict=True) if not is_done(item, size))
    return left


def _unopened(name: str, why: str) -> Row:
    return Row(path=name, size=0, mtime_ns=0, error=why)


def _refuse_inside(request: Request, source: Source) -> None:
    """Masks among the images would be the next run's images."""
    out, root = f"{plain(request.out)}/", f"{plain(request.source)}/"
    if out.startswith(root) or any(source.store.address(item.place).startswith(out) for item in source.items):
        raise InputError(f"{request.out}, where masks go, and the images lie in one folder", hint="name another --out")
