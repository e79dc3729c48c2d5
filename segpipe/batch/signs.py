"""Where a store knows no locks: a driver's sign changes there for as long as it lives, and a second driver looks on.

No clock is compared. Two that begin within the same seconds do not see each other: they do the same work and change no
mask.
"""

import itertools
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from segpipe.batch.items import Shard
from segpipe.batch.stores import Store
from segpipe.errors import InputError, SegpipeError

_log = logging.getLogger(__name__)

FOLDER = "alive"
_SIGN = re.compile(rf"{FOLDER}/(?P<number>\d+)of(?P<of>\d+)\.json")
_BEAT_S = 5.0
_LOOK_S = 20.0
"""Without a change for so long, who left the sign is no more."""


@contextmanager
def sign_of_life(store: Store, shard: Shard) -> Iterator[None]:
    """Keep one for a shard; it goes with the driver, or is left behind by a killed one."""
    name, beats, ended = f"{FOLDER}/{shard}.json", _beats(), threading.Event()
    store.write(name, next(beats))
    beating = threading.Thread(target=_beat, args=(store, name, beats, ended), daemon=True)
    beating.start()
    try:
        yield
    finally:
        ended.set()
        beating.join()
        with suppress(SegpipeError):
            store.remove(name)


def living(store: Store, shard: Shard) -> Shard | None:
    """The shard of a driver that lives and may not work beside this one."""
    for entry in [*store.entries(FOLDER)]:
        found = _SIGN.fullmatch(entry.name)
        other = found and Shard(int(found["number"]), int(found["of"]))
        if other and (other == shard or other.of != shard.of) and _changes(store, entry.name):
            return other
    return None


def _changes(store: Store, name: str) -> bool:
    _log.info("%s: somebody began here, looking for %.0f s whether it still works", store.address(name), _LOOK_S)
    first, deadline = _read(store, name), time.monotonic() + _LOOK_S
    while time.monotonic() < deadline:
        time.sleep(_BEAT_S / 5)
        if (now := _read(store, name)) != first:
            return now != b""  # a sign that is gone is of one that ended
    return False


def _read(store: Store, name: str) -> bytes:
    try:
        return store.read(name).data
    except InputError:
        return b""


def _beats() -> Iterator[bytes]:
    """No two of them are alike, whoever makes them."""
    driver = uuid.uuid4().hex
    return (json.dumps({"driver": driver, "beat": number}).encode("ascii") for number in itertools.count())


def _beat(store: Store, name: str, beats: Iterator[bytes], ended: threading.Event) -> None:
    """A beat that a store does not take is left out: at worst a second driver does the same work."""
    while not ended.wait(_BEAT_S):
        with suppress(SegpipeError):
            store.write(name, next(beats))
