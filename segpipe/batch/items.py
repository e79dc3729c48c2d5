"""One image among many: how it is called, where it lies, and where its mask goes."""

import posixpath
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from segpipe.errors import InputError


class Item(NamedTuple):
    """An image that was found. Only this travels to other machines."""

    name: str
    """What it is called in the index: relative, without `..`, the same in every run."""
    place: str
    """The file that holds it, from the source's root."""
    size: int
    stamp: int
    start: int = -1
    """Where it begins in a tar; -1 for a file of its own."""
    by_windows: bool = False
    """Whether it is read in parts, and its mask is a GeoTIFF."""

    @property
    def picture(self) -> str:
        """What is made of it is called so, in a folder for each kind."""
        return f"{posixpath.splitext(self.name)[0]}{'.tif' if self.by_windows else '.png'}"


class Shard(NamedTuple):
    """The share of one of several drivers. Whose an image is depends on its name alone."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `2/8`: the second of eight."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"a shard is K/N, such as 2/8, got {text!r}")
        return cls(int(number), int(of))

    def holds(self, name: str) -> bool:
        """Whether an image of this name belongs to it."""
        return zlib.crc32(name.encode("utf-8", "surrogateescape")) % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}of{self.of}"


WHOLE = Shard()


def safe_name(name: str) -> str:
    """A name from somebody's archive or list as one below the root; empty where it leads out of it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "" if ".." in parts or "\0" in name else "/".join(parts)


def once_each(items: Iterable[Item]) -> list[Item]:
    """Without repetitions. Two images that would write one mask are an InputError."""
    listed = list(items)
    keys = np.sort(np.fromiter((hash(item.picture) for item in listed), np.int64, len(listed)))
    if not (keys[1:] == keys[:-1]).any():  # as always: no dictionary of millions is made to see it
        return listed
    found: dict[str, Item] = {}
    for item in listed:
        other = found.setdefault(item.picture, item)
        if other.name != item.name:
            raise InputError(
                f"{other.name} and {item.name} would both write {item.picture}",
                hint="rename one, or predict them from two sources",
            )
    return [*found.values()]


def of_shard(items: Sequence[Item], shard: Shard) -> list[Item]:
    """What one driver has to do."""
    return [item for item in items if shard.holds(item.name)]
