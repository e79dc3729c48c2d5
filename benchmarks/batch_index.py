"""Two parts of `benchmarks.batch`: the index of millions of images that are nowhere, and a driver's memory."""

import os
import time
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa

from segpipe import testing
from segpipe.batch.driver import Here, Request, predict_batch
from segpipe.batch.index import SCHEMA, Files, encoded
from segpipe.batch.items import Item
from segpipe.batch.latest import Latest
from segpipe.batch.status import status
from segpipe.batch.stores import LocalStore
from segpipe.batch.version import Version
from segpipe.media.images import encode_png
from segpipe.predicting.job import Job
from segpipe.runtime.segmenter import Segmenter

_ROWS = 100_000  # of a file of the index
_JOB = Job(Path(), overlay=False)


def index(folder: Path, images: int) -> None:
    """Rows written, read, compared with a listing, and counted for `status`."""
    store, began = LocalStore(folder / "out/version"), time.monotonic()
    for first in range(0, images, _ROWS):
        numbers = range(first, min(first + _ROWS, images))
        columns = {name: [None] * len(numbers) for name in SCHEMA.names} | {
            "path": [_name(n) for n in numbers], "size": [*numbers], "mtime_ns": [*numbers],
            "error": [""] * len(numbers), "mask_bytes": [100] * len(numbers), "shares": [[0.25] * 4] * len(numbers),
        }  # fmt: skip
        name = f"index/000001-1of1-{first // _ROWS + 1:06d}.parquet"
        store.write(name, encoded(pa.table(columns, schema=SCHEMA)))
    store.write("batch.json", b"{}")
    _said("written", began)
    files, began = Files.of(store), time.monotonic()
    latest = Latest.of(files)
    _said("read", began)
    began = time.monotonic()
    items = [Item(name := _name(n), name, n, n) for n in range(images)]
    _said("the list of images", began)
    began = time.monotonic()
    done = sum(latest.mask_bytes(items[at : at + _ROWS]).count(100) for at in range(0, images, _ROWS))
    _said(f"compared, {done} done", began)
    began = time.monotonic()
    _said(f"status, {status(str(folder / 'out'))[0].done} done", began)


def memory(folder: Path, images: int) -> None:
    """Of a driver that segments in this process."""
    run, data = testing.make_run(folder / "run"), encode_png("image", testing.make_frame(64, 64)[0])
    for n in range(images):
        path = folder / f"in/{n // 1000:04}/{n:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with Segmenter.open(run) as segmenter:
        asked = Request(str(folder / "in"), str(folder / "out"), _JOB, Version.of(segmenter, _JOB, ("mask",)))
        predict_batch(Here(segmenter, _JOB, ("mask",)), asked, lambda total: nullcontext(_Watch(total)))


class _Watch:
    """Says now and then how much memory the process has."""

    def __init__(self, total: int) -> None:
        self._every, self._seen = max(total // 10, 1), 0

    def __call__(self, frames: int, /, *, skipped: bool = False) -> None:
        self._seen += frames
        if frames and self._seen % self._every == 0:
            print(f"| {self._seen} | {_memory_mb('VmRSS')} |", flush=True)


def _name(number: int) -> str:
    return f"{number // 1000:05}/{number:08}.png"


def _said(what: str, began: float) -> None:
    print(f"| {what} | {time.monotonic() - began:.1f} | {_memory_mb('VmHWM')} | {os.getloadavg()[0]:.1f} |", flush=True)


def _memory_mb(kind: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(kind))
