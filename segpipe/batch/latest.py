"""What the index says last of each name, in arrays: as objects ten million rows would be gigabytes.

A name is its hash of 64 bits, with this process's own seed. Two names of one hash would be three in a million times
that somebody has ten million images; then one of them is looked at again, and its mask proves what it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from segpipe.batch.index import Files, names_in
from segpipe.batch.items import Item
from segpipe.batch.stores import GONE

_NUMBERS = ("size", "mtime_ns", "mask_bytes")


@dataclass(frozen=True)
class Latest:
    """A row a name, sorted by the names' hashes."""

    keys: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """Size and time of the image, size of the mask: three to a row."""
    broken: NDArray[np.bool_]

    @classmethod
    def of(cls, files: Files) -> "Latest":
        """Read the index once."""
        keys, numbers, broken = [np.empty(0, np.int64)], [np.empty((0, 3), np.int64)], [np.empty(0, np.bool_)]
        for table in files.tables(["path", "raw_path", "error", *_NUMBERS]):
            keys.append(_hashed(names_in(table), table.num_rows))
            numbers.append(np.stack([table.column(name).to_numpy() for name in _NUMBERS], 1))
            broken.append(np.fromiter(map(bool, table.column("error").to_pylist()), np.bool_, table.num_rows))
        whole = np.concatenate(keys)
        order = _newest(whole)
        return cls(whole[order], np.concatenate(numbers)[order], np.concatenate(broken)[order])

    def mask_bytes(self, items: Sequence[Item]) -> list[int]:
        """How large each image's mask is, where its row has no error and is of the image as it is now; else GONE."""
        if not self.keys.size:
            return [GONE] * len(items)
        keys = _hashed((item.name for item in items), len(items))
        at = np.searchsorted(self.keys, keys).clip(0, self.keys.size - 1)
        now = np.array([(item.size, item.stamp) for item in items], np.int64).reshape(-1, 2)
        sound = (self.keys[at] == keys) & ~self.broken[at] & (self.numbers[at, :2] == now).all(1)
        answer: list[int] = np.where(sound, self.numbers[at, 2], GONE).tolist()
        return answer

    def why_broken(self, files: Files) -> dict[str, str]:
        """The errors that no later row has resolved, by name."""
        found = {}
        for table in files.tables(["path", "raw_path", "error"]) if self.broken.any() else ():
            for name, error in zip(names_in(table), table.column("error").to_pylist(), strict=True):
                if error:
                    found[name] = error
        still = self.broken[np.searchsorted(self.keys, _hashed(found, len(found)))] if found else ()
        return {name: error for (name, error), is_so in zip(found.items(), still, strict=True) if is_so}


def _hashed(names: Iterable[str], count: int) -> NDArray[np.int64]:
    return np.fromiter(map(hash, names), np.int64, count)


def last_rows(files: Files, columns: Sequence[str]) -> Iterator[Any]:
    """Those columns of each name's last row, a table at a time."""
    keys = [np.empty(0, np.int64)]
    keys += [_hashed(names_in(table), table.num_rows) for table in files.tables(["path", "raw_path"])]
    whole = np.concatenate(keys)
    kept, begin = np.zeros(whole.size, np.bool_), 0
    kept[_newest(whole)] = True
    for table in files.tables(columns):
        yield table.filter(pa.array(kept[begin : begin + table.num_rows]))
        begin += table.num_rows


def _newest(keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where the last one of each key stands, sorted by key."""
    order = np.argsort(keys, kind="stable")  # of equal ones the newest stays last
    return order[np.append(keys[order][1:] != keys[order][:-1], np.ones(min(keys.size, 1), np.bool_))]
