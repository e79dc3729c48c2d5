"""Object stores through pyarrow: s3://bucket/prefix, gs://bucket/prefix. An object has its name when it is whole."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.fs as pafs

from segpipe.batch.stores import GONE, Content, Entry
from segpipe.errors import InputError, StorageError
from segpipe.rundir.storage import explained_refusals

_ATTEMPTS = 10  # at a throttled request, with longer and longer pauses: some seconds in all
_PIECE_BYTES = 8 << 20
_DENIED = "ACCESS_DENIED"


class RemoteStore:
    """Objects below a prefix."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._files, self._root = _opened(address)

    def address(self, name: str = "") -> str:
        return f"{self._address}{'' if self._address.endswith('/') else '/'}{name}" if name else self._address

    def entries(self, folder: str = "") -> Iterator[Entry]:
        found = self._listed(folder, recursive=True)
        entries = (self._entry(info) for info in found if info.is_file)
        return iter(sorted(entry for entry in entries if not _is_hidden(entry.name)))

    def folders(self) -> list[str]:
        found = (self._named(info.path) for info in self._listed("", recursive=False) if not info.is_file)
        return sorted(name for name in found if not _is_hidden(name))

    def entry(self, name: str) -> Entry | None:
        with _explained(self.address(name)):
            info = self._files.get_file_info(self._path(name))
        return self._entry(info) if info.is_file else None

    def is_link(self, name: str) -> bool:
        return False

    def read(self, name: str, start: int = 0, size: int = -1) -> Content:
        with _explained(self.address(name)), self._files.open_input_file(self._path(name)) as file:
            file.seek(start)
            return Content(file.read(None if size < 0 else size), GONE)

    def open(self, name: str) -> BinaryIO:
        with _explained(self.address(name)):
            opened: BinaryIO = self._files.open_input_file(self._path(name))
        return opened

    def write(self, name: str, data: bytes) -> None:
        with _explained(self.address(name)), self._files.open_output_stream(self._path(name)) as file:
            file.write(data)

    @contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """A copy, which goes."""
        with tempfile.TemporaryDirectory(prefix="segpipe-") as folder:
            path = Path(folder, "file")
            with self.open(name) as source, explained_refusals(str(path)), path.open("wb") as target:
                shutil.copyfileobj(source, target, _PIECE_BYTES)
            yield path

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Written here, and sent when it is whole."""
        with tempfile.TemporaryDirectory(prefix="segpipe-") as folder:
            yield (path := Path(folder, "file"))
            with (
                _explained(self.address(name)),
                path.open("rb") as source,
                self._files.open_output_stream(self._path(name)) as target,
            ):
                shutil.copyfileobj(source, target, _PIECE_BYTES)

    def remove(self, name: str) -> None:
        with _explained(self.address(name)):
            self._files.delete_file(self._path(name))

    def sizes(self, folder: str) -> Callable[[str], int]:
        known = {entry.name: entry.size for entry in self.entries(folder)}  # one listing, not a request an image
        return lambda name: known.get(name, GONE)

    def sweep(self, folder: str) -> None:
        """Nothing is half written."""

    def _listed(self, folder: str, recursive: bool) -> list[Any]:
        with _explained(self.address(folder)):
            top = pafs.FileSelector(self._path(folder).rstrip("/"), allow_not_found=True, recursive=recursive)
            return list(self._files.get_file_info(top))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}".strip("/")

    def _named(self, path: str) -> str:
        return path.removeprefix(f"{self._root}/") if self._root else path

    def _entry(self, info: Any) -> Entry:
        return Entry(self._named(info.path), info.size, info.mtime_ns or 0)


def _opened(address: str) -> tuple[Any, str]:
    scheme, _, path = address.partition("://")
    with _explained(address):
        if scheme != "s3":
            return pafs.FileSystem.from_uri(address)
        retry = pafs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
        options: dict[str, Any] = {}
        if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
            own_scheme, _, host = endpoint.partition("://")
            options = {"scheme": own_scheme, "endpoint_override": host.rstrip("/")}
        return pafs.S3FileSystem(retry_strategy=retry, **options), path.strip("/")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What is gone or closed to us is about that object; whatever else a store says would hit the next one too."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{what} does not exist", hint="check the address") from error
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        if _DENIED in reason:
            raise InputError(f"{what} is closed to these credentials", hint="check AWS_PROFILE or its keys") from error
        raise StorageError(f"{what}: {reason}", hint="check address, credentials and network, and repeat") from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))
