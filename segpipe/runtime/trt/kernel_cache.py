"""The kernels that TensorRT for RTX compiles on a GPU when it first sees a shape: kept for the next process."""

import hashlib
import logging
from pathlib import Path
from typing import Any

from segpipe.errors import StorageError
from segpipe.rundir.storage import write_atomically
from segpipe.user_cache import user_cache

_log = logging.getLogger(__name__)


def kernel_cache_file(plan: bytes, version: str, gpu: str, driver: int) -> Path:
    """One file for each engine, version of TensorRT for RTX, GPU and driver."""
    engine = hashlib.sha256(plan).hexdigest()[:16]
    return user_cache("rtx", f"{engine}-{version}-{gpu}-{driver}.cache")


class KernelCache:
    """TensorRT's cache object with a file behind it. A file that cannot be read or written costs time, nothing else."""

    def __init__(self, cache: Any, path: Path) -> None:
        self.cache = cache
        self._path = path
        self._stored = b""
        try:
            found = path.read_bytes() if path.is_file() else b""
        except OSError as error:
            _log.info("%s cannot be read: %s", path, error)
            return
        if found and cache.deserialize(found):
            self._stored = found

    def store(self) -> None:
        """Write what was compiled since, if anything was."""
        held = self.cache.serialize()
        data = b"" if held is None else bytes(held)
        if not data or data == self._stored:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, data)
        except (OSError, StorageError) as error:
            _log.info("%s cannot be written: %s", self._path, error)
        else:
            self._stored = data
