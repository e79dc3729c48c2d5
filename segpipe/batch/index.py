"""The index: a Parquet row for each image that was tried, in files that are written whole and never changed.

Later rows of a name are the true ones. What is later is told by the files' names, numbers of sessions and of files
within one, and not by a clock. A session that ends orderly leaves one file of one row a name, unless it
made more than 200,000.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from segpipe.batch.stores import Store
from segpipe.errors import InputError

Answer = TypeVar("Answer")
FOLDER = "index"
_NAME = re.compile(r"index/(?P<session>\d{6})-(?P<shard>\d+of\d+)-(?P<number>\d{6})\.parquet")
_MOST_ROWS, _LONGEST_S = 1000, 5.0
"""Rows that wait to be written at most, and how long."""
_MERGED_ROWS = 200_000
_LOOKS = 10
_MOST_FILES = 100
"""Small ones of one session; so many become one."""


class Row(NamedTuple):
    """What is known of one image."""

    path: str
    """Its name; bytes that are no UTF-8 are shown as `\\xff`, and `raw_path` has them."""
    size: int
    mtime_ns: int
    error: str = ""
    """Why there is no mask; empty where there is one."""
    sha256: str = ""
    artifact_sha256: str = ""
    device: str = ""
    mask: str = ""
    mask_bytes: int = 0
    height: int = 0
    width: int = 0
    shares: list[float] | None = None
    """Of the frame's pixels, by class in the contract's order."""
    mean_confidence: float | None = None
    rle: str | None = None
    """COCO's run lengths by class, as JSON."""
    ms: float | None = None
    """From the read bytes to the written mask; None where the mask was there already."""
    tries: int = 1
    """How often a worker began with it."""
    finished_utc: float = 0.0
    """For people: no decision rests on it."""
    worker: str = ""


SCHEMA = pa.schema(
    [
        ("path", pa.string()), ("raw_path", pa.binary()), ("size", pa.int64()), ("mtime_ns", pa.int64()),
        ("error", pa.string()), ("sha256", pa.string()), ("artifact_sha256", pa.string()), ("device", pa.string()),
        ("mask", pa.string()), ("mask_bytes", pa.int64()), ("height", pa.int32()), ("width", pa.int32()),
        ("shares", pa.list_(pa.float64())), ("mean_confidence", pa.float64()), ("rle", pa.string()),
        ("ms", pa.float64()), ("tries", pa.int32()), ("finished_utc", pa.timestamp("ms", tz="UTC")),
        ("worker", pa.string()),
    ]
)  # fmt: skip
_TEXTS = ("path", "error", "mask", "worker")
_MAY_LACK = frozenset({"raw_path", "shares", "mean_confidence", "rle", "ms"})
DELETE = "delete it: its images are looked at again, and what their masks prove is not made again"


class GoneError(InputError):
    """A file of the index went between the listing and the reading: its driver put it into another one."""


class Files(NamedTuple):
    """The index of one folder of results, as it lies there now."""

    store: Store
    names: list[str]

    @classmethod
    def of(cls, store: Store) -> "Files":
        """Its files, in the order in which their rows came to be."""
        found = [name for entry in store.entries(FOLDER) if (name := entry.name) and _NAME.fullmatch(name)]
        return cls(store, sorted(found, key=_age))

    @property
    def next_session(self) -> int:
        """A number that no session has had."""
        return 1 + max((_age(name)[0] for name in self.names), default=0)

    def tables(self, columns: Sequence[str]) -> Iterator[Any]:
        """Those columns of each file, oldest first."""
        for name in self.names:
            content, called = self._read(name), self.store.address(name)
            try:
                table = pq.read_table(pa.BufferReader(content), columns=list(columns), use_threads=False)
                table.validate(full=True)  # that texts are UTF-8, too
            except (pa.ArrowException, OSError) as error:  # an OSError says that a page does not decompress
                raise InputError(f"{called} is no Parquet that can be read: {error}", hint=DELETE) from None
            if wrong := _not_as_written(table, columns):
                raise InputError(f"{called} is not as segpipe wrote it: {wrong}", hint=DELETE)
            yield table

    def _read(self, name: str) -> bytes:
        try:
            return self.store.read(name).data
        except InputError as error:
            if self.store.entry(name) is None:
                raise GoneError(error.message, hint="give the command again") from None
            raise

    def latest(self, columns: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """The values of those columns, by name: of each name's last row."""
        found: dict[str, tuple[Any, ...]] = {}
        for table in self.tables(["path", "raw_path", *columns]):
            path, raw, *values = (table.column(name).to_pylist() for name in ("path", "raw_path", *columns))
            names = (_name(*pair) for pair in zip(path, raw, strict=True))
            found.update(zip(names, zip(*values, strict=True), strict=True))
        return found


def at_one_moment(store: Store, read: Callable[[Files], Answer]) -> Answer:
    """What is read of an index to which others may write meanwhile: listed again when a file goes."""
    for _ in range(_LOOKS - 1):
        with suppress(GoneError):
            return read(Files.of(store))
    return read(Files.of(store))


def _not_as_written(table: Any, columns: Sequence[str]) -> str:
    """What is wrong with the first column that somebody changed; empty where none is."""
    for name in columns:
        if table.schema.field(name).type != SCHEMA.field(name).type:
            return f"{name} is {table.schema.field(name).type}, not {SCHEMA.field(name).type}"
        if name not in _MAY_LACK and table.column(name).null_count:
            return f"a row has no {name}"
    return ""


def names_in(table: Any) -> Iterator[str]:
    """The images that rows are of."""
    return (_name(*pair) for pair in _names(table))


def _age(name: str) -> tuple[int, int]:
    found = _NAME.fullmatch(name)
    assert found is not None, name
    return int(found["session"]), int(found["number"])


def _name(path: str, raw: bytes | None) -> str:
    return path if raw is None else raw.decode("utf-8", "surrogateescape")


class Log:
    """Rows on their way into the index: some at a time, in one thread, and all at the end."""

    def __init__(self, store: Store, shard: str, session: int) -> None:
        self.store, self._prefix = store, f"{FOLDER}/{session:06d}-{shard}"
        self._waiting: list[Row] = []
        self._written: list[str] = []
        self._number = self._merged = 0
        """Of files that were written, and of those that hold what many small ones held."""
        self._flushed_s = time.monotonic()
        self.rows = 0

    def add(self, row: Row) -> bool:
        """Take a row; whether those that waited were written."""
        self._waiting.append(row)
        self.rows += 1
        due = len(self._waiting) >= _MOST_ROWS or time.monotonic() - self._flushed_s >= _LONGEST_S
        if due:
            self.flush()
        return due

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._number += 1
            name = f"{self._prefix}-{self._number:06d}.parquet"
            self.store.write(name, encoded(_table(self._waiting)))
            self._written.append(name)
            self._waiting = []
            if len(self._written) - self._merged >= _MOST_FILES:
                self._merge()
        self._flushed_s = time.monotonic()

    def _merge(self) -> None:
        """Small files into the last of them, which has all their rows before the first one goes."""
        *small, last = names = self._written[self._merged :]
        tables = Files(self.store, names).tables(SCHEMA.names)
        self.store.write(last, encoded(pa.concat_tables(tables)))
        for name in small:
            self.store.remove(name)
        self._written[self._merged :] = [last]
        self._merged += 1

    def close(self) -> None:
        """Write what waits, and put this session's files together: merged first, deleted then, so no kill loses any."""
        self.flush()
        if len(self._written) < 2 or self.rows > _MERGED_ROWS:
            return
        files = Files(self.store, self._written)
        table = pa.concat_tables(files.tables(SCHEMA.names))
        last = {_name(*pair): n for n, pair in enumerate(_names(table))}
        self.store.write(f"{self._prefix}-000000.parquet", encoded(table.take(sorted(last.values()))))
        for name in self._written:
            self.store.remove(name)


def _names(table: Any) -> Iterable[tuple[str, bytes | None]]:
    return zip(table.column("path").to_pylist(), table.column("raw_path").to_pylist(), strict=True)


def _table(rows: Sequence[Row]) -> Any:
    """Parquet's texts are UTF-8, names of files are bytes."""
    columns = []
    for row in rows:
        values = row._asdict() | {"finished_utc": int(row.finished_utc * 1000)}
        texts = {name: values[name].encode("utf-8", "surrogateescape") for name in _TEXTS}
        shown = {name: text.decode("utf-8", "backslashreplace") for name, text in texts.items()}
        raw = None if shown["path"] == row.path else texts["path"]
        columns.append(values | shown | {"raw_path": raw})
    return pa.Table.from_pylist(columns, schema=SCHEMA)


def encoded(table: Any) -> bytes:
    """A file of the index."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()
