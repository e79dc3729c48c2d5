"""Where images come from and masks go to: files by relative name, below one root."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from segpipe.errors import InputError
from segpipe.media.files import open_regular
from segpipe.media.images import write_png
from segpipe.predicting.publishing import whole
from segpipe.rundir.storage import explained_reads, explained_refusals, sweep_temporaries

GONE = -1
"""The size of what nobody has."""


class Entry(NamedTuple):
    """A file, as a listing shows it."""

    name: str
    """From the root, with slashes."""
    size: int
    stamp: int
    """Modification time in nanoseconds: compared for equality alone, so clocks may differ."""


class Content(NamedTuple):
    """What was read, and the stamp of the file that it was read from."""

    data: bytes
    stamp: int


class Store(Protocol):
    """Names are relative; each call may come from any thread."""

    def address(self, name: str = "") -> str:
        """How the root, or a file below it, is called from outside."""
        ...

    def entries(self, folder: str = "") -> Iterator[Entry]:
        """Every file below a folder, sorted; hidden ones apart."""
        ...

    def folders(self) -> list[str]:
        """Names of those right below the root, sorted; hidden ones apart."""
        ...

    def entry(self, name: str) -> Entry | None:
        """A file, or None where there is none."""
        ...

    def is_link(self, name: str) -> bool:
        """Whether it is a link, dangling or not: nothing of ours is one."""
        ...

    def read(self, name: str, start: int = 0, size: int = -1) -> Content:
        """A file's bytes, or a part of them; an InputError where there is none."""
        ...

    def open(self, name: str) -> BinaryIO:
        """A file to be read here and there; the caller closes it."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """The name has these bytes afterwards, whole, or as before."""
        ...

    def local_file(self, name: str) -> AbstractContextManager[Path]:
        """A path that has a file's bytes meanwhile, for libraries that read here and there."""
        ...

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        """A path to write a file to, which has the name when this ends well; else nothing has changed."""
        ...

    def remove(self, name: str) -> None:
        """Nothing has this name afterwards."""
        ...

    def sizes(self, folder: str) -> Callable[[str], int]:
        """A question about files below a folder: the size of a name, GONE where there is none."""
        ...

    def sweep(self, folder: str) -> None:
        """Delete what a killed writer left half written below a folder."""
        ...


class LocalStore:
    """A folder of this machine, or one that all machines share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def address(self, name: str = "") -> str:
        return str(self.root / name)

    def entries(self, folder: str = "") -> Iterator[Entry]:
        top = self.root / folder
        with explained_reads(top), suppress(FileNotFoundError):
            for place, folders, names in os.walk(top, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                shown = (os.path.relpath(f"{place}/{name}", self.root) for name in sorted(names) if name[0] != ".")
                yield from filter(None, map(self.entry, shown))

    def folders(self) -> list[str]:
        with explained_reads(self.root):
            if not self.root.is_dir():
                return []
            return sorted(one.name for one in self.root.iterdir() if one.is_dir() and not one.name.startswith("."))

    def entry(self, name: str) -> Entry | None:
        try:
            status = os.stat(f"{self.root}/{name}")  # noqa: PTH116 - a hundred thousand times
        except (FileNotFoundError, NotADirectoryError):
            return None
        return Entry(name, status.st_size, status.st_mtime_ns)

    def is_link(self, name: str) -> bool:
        return (self.root / name).is_symlink()

    def read(self, name: str, start: int = 0, size: int = -1) -> Content:
        path = self.root / name
        with open_regular(path) as file:
            try:
                file.seek(start)
                return Content(file.read(size), os.fstat(file.fileno()).st_mtime_ns)
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}", hint="check the disk it is on") from None

    def open(self, name: str) -> BinaryIO:
        return open_regular(self.root / name)

    def write(self, name: str, data: bytes) -> None:
        write_png(self.root / name, data)

    @contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        yield self.root / name

    def new_file(self, name: str) -> AbstractContextManager[Path]:
        return whole(self.root / name, self.root)

    def remove(self, name: str) -> None:
        with explained_refusals(self.address(name)):
            (self.root / name).unlink(missing_ok=True)

    def sizes(self, folder: str) -> Callable[[str], int]:
        def size(name: str) -> int:
            return entry.size if (entry := self.entry(name)) else GONE

        return size

    def sweep(self, folder: str) -> None:
        for place, _, names in os.walk(self.root / folder):
            if any(name.startswith(".") for name in names):
                sweep_temporaries(Path(place))


def _raise(error: OSError) -> None:
    raise error


def is_remote(address: str) -> bool:
    """Whether it names an object store: `s3://bucket/prefix`."""
    scheme, separator, _ = address.partition("://")
    return bool(separator) and scheme.isalnum()


def plain(address: str) -> str:
    """The same place by one name."""
    if is_remote(address):
        scheme, _, path = address.partition("://")
        return f"{scheme}://{path.strip('/')}"
    return os.path.abspath(address)  # noqa: PTH100 - links keep their names


def open_store(address: str) -> Store:
    """The store at a path."""
    if is_remote(address):
        remote: Store = import_module("segpipe.batch.remote").RemoteStore(plain(address))  # pyarrow loads here
        return remote
    return LocalStore(Path(plain(address)))
