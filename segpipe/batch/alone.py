"""One driver for each image: a second one on the same output is refused, unless both have shards of the same count."""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from segpipe.batch.items import Shard
from segpipe.batch.signs import living, sign_of_life
from segpipe.batch.stores import LocalStore, Store
from segpipe.errors import InputError
from segpipe.rundir.storage import explained_refusals

_LOCK = re.compile(r"\.lock-\d+of(\d+)")


@contextmanager
def alone(store: Store, shard: Shard) -> Iterator[None]:
    """Hold a shard of a version. In a folder the kernel frees it when the process dies, however it dies."""
    if not isinstance(store, LocalStore):
        if (held_by := living(store, shard)) is not None:
            raise _busy(store, f"by another segpipe, with shard {held_by}")
        with sign_of_life(store, shard):
            yield
        return
    with ExitStack() as held:
        with explained_refusals(store.address()):
            store.root.mkdir(parents=True, exist_ok=True)
            _hold(held, store.root / f".lock-{shard}", store)
            for other in store.root.glob(".lock-*"):
                found = _LOCK.fullmatch(other.name)
                if found and int(found[1]) != shard.of and not _is_free(other):
                    raise _busy(store, f"by shards of {found[1]}")
        yield


def _hold(held: ExitStack, path: Path, store: Store) -> None:
    file = held.enter_context(_opened(path))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _busy(store, "by another segpipe") from None
    except OSError:
        pass  # a file system without locks: as well as it goes


def _is_free(path: Path) -> bool:
    with _opened(path) as file, suppress(OSError):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _opened(path: Path) -> BinaryIO:
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644))


def _busy(store: Store, by: str) -> InputError:
    return InputError(
        f"{store.address()} is being filled {by}",
        hint="wait for it, or give each driver a share of its own: --shard 1/2 and --shard 2/2",
    )
