"""What a person names to the images in it: a folder, a list of paths (CSV, Parquet), or WebDataset tars."""

import csv
import io
import logging
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from segpipe.batch.items import Item, once_each, safe_name
from segpipe.batch.stores import GONE, Entry, LocalStore, Store, is_remote, open_store, plain
from segpipe.errors import InputError
from segpipe.media.images import SUFFIXES

_log = logging.getLogger(__name__)

LISTS = frozenset({".csv", ".parquet"})
COLUMN = "path"
"""Of a list: the one that is read."""


@dataclass
class Source:
    """What was found, and where it is read from."""

    store: Store
    items: list[Item]
    broken: dict[str, str] = field(default_factory=dict)
    """What could not be looked into, by name, and why."""


def find(address: str, rasters: frozenset[str] = frozenset()) -> Source:
    """Every image of a source, once each, sorted as it lies there; files of the suffixes `rasters` by windows."""
    address = plain(address)
    suffix = posixpath.splitext(address)[1].lower()
    if suffix in LISTS:
        source = _of_list(address, suffix, rasters)
    else:
        source = _of_tar(address) if suffix == ".tar" else _of_folder(address, rasters)
    source.items = once_each(source.items)
    if not source.items and not source.broken:
        raise InputError(f"{address} holds no image", hint=f"wanted are {', '.join(sorted(SUFFIXES))}, or tars of them")
    return source


def _of_folder(address: str, rasters: frozenset[str]) -> Source:
    store = open_store(address)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise InputError(f"{address} is no folder", hint="name a folder, a .tar, or a .csv or .parquet list of paths")
    source, left_out = Source(store, []), Counter[str]()
    for entry in store.entries():
        suffix = posixpath.splitext(entry.name)[1].lower()
        if suffix in SUFFIXES | rasters:
            source.items.append(Item(entry.name, *entry, by_windows=suffix in rasters))
        elif suffix == ".tar":
            _look_into(source, entry)
        else:
            left_out[suffix or "without a suffix"] += 1
    if left_out:
        counts = ", ".join(f"{kind} {count}" for kind, count in sorted(left_out.items()))
        _log.warning("%s: left out, not read as images: %s", address, counts)
    return source


def _of_tar(address: str) -> Source:
    folder, _, name = address.rpartition("/")
    source = Source(open_store(folder or "/"), [])
    entry = source.store.entry(name)
    if entry is None:
        raise InputError(f"{address} does not exist", hint="check the path")
    _look_into(source, entry)
    return source


def _look_into(source: Source, entry: Entry) -> None:
    """The images in a tar; what is wrong with it is told of it, and the other tars go on."""
    try:
        source.items += _members(source.store, entry)
    except (tarfile.TarError, EOFError) as error:
        source.broken[entry.name] = f"{entry.name} is no tar that can be read: {error}"


def _members(store: Store, entry: Entry) -> Iterator[Item]:
    """Members are called `shard.tar/inside/name.jpg`: no folder beside the tar has that name."""
    with store.open(entry.name) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg() and not member.issparse() and posixpath.splitext(member.name)[1].lower() in SUFFIXES:
                if not (name := safe_name(member.name)):
                    _log.warning("%s: left out, its name leads out of the folder: %s", entry.name, member.name)
                    continue
                yield Item(f"{entry.name}/{name}", entry.name, member.size, entry.stamp, member.offset_data)


def _of_list(address: str, suffix: str, rasters: frozenset[str]) -> Source:
    """Paths are relative to the list's folder, or whole; what lies elsewhere is called by its whole path."""
    folder, _, name = address.rpartition("/")
    content = open_store(folder or "/").read(name).data
    paths = _of_csv(address, content) if suffix == ".csv" else _of_parquet(address, content)
    whole = [path if is_remote(path) else _joined(folder, path) for path in paths]
    roots = {path.partition("://")[0] + "://" if is_remote(path) else "/" for path in whole} or {"/"}
    if len(roots) > 1:
        raise InputError(f"{address} names paths of {' and '.join(sorted(roots))}", hint="make a list of each")
    (root,) = roots
    store, found = open_store(root), []
    for path in whole:
        place = path.removeprefix(root).strip("/")
        entry = store.entry(place)
        called = safe_name(path.removeprefix(f"{folder}/").removeprefix(root))
        if not called:
            raise InputError(f"{address} names {path}, which is no file", hint="write its path without ..")
        by_windows = posixpath.splitext(called)[1].lower() in rasters
        found.append(Item(called, place, *(entry[1:] if entry else (GONE, 0)), by_windows=by_windows))
    return Source(store, found)


def _joined(folder: str, path: str) -> str:
    """Relative paths may lead up; those of an object store start anew at its root."""
    scheme, separator, top = folder.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(posixpath.join(top or '/', path))}"


def _of_csv(address: str, content: bytes) -> list[str]:
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        names = rows.fieldnames or []
        if COLUMN not in names:
            raise _without_column(address, list(names))
        return [row[COLUMN] for row in rows if row[COLUMN]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{address} is no CSV in UTF-8: {error}", hint=f"wanted is a column {COLUMN}") from None


def _of_parquet(address: str, content: bytes) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(pa.BufferReader(content)).names
        if COLUMN not in names:
            raise _without_column(address, names)
        column = pq.read_table(pa.BufferReader(content), columns=[COLUMN]).column(COLUMN)
    except pa.ArrowException as error:
        raise InputError(f"{address} is no Parquet that can be read: {error}", hint="write it again") from None
    return [os.fsdecode(path) for path in column.to_pylist() if path]


def _without_column(address: str, names: list[str]) -> InputError:
    return InputError(f"{address} has no column {COLUMN}, but {', '.join(names) or 'none'}", hint="rename one")
