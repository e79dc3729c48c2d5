"""What the index tells of a version, counted in one pass and little memory: speed, shares, slowest, broken."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from segpipe.batch.index import DELETE, FOLDER, Files
from segpipe.batch.latest import last_rows
from segpipe.errors import InputError

_COLUMNS = ("path", "error", "ms", "finished_utc", "shares", "height", "width", "mask")
MOST_SHOWN = 20
"""Slowest and broken images that are named."""
_MOST_MOMENTS = 10_000
"""Seconds that are counted each by itself; more become minutes."""
_LAST_S = 253_402_300_800
"""The year 10000: an edited time beyond it is none."""


@dataclass
class Summary:
    """Sums over the last row of each image."""

    done: int = 0
    broken: int = 0
    pixels: int = 0
    of_class: Any = 0.0
    """Pixels of each class."""
    moments: Counter[int] = field(default_factory=Counter)
    """Images that were segmented in each `unit_s` since 1970."""
    unit_s: int = 1
    slowest: list[tuple[float, str]] = field(default_factory=list)
    """Milliseconds and name."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why, of some broken images, by name."""
    sample: list[tuple[str, str, str]] = field(default_factory=list)
    """A draw, the mask and the name of some images."""

    def share(self, number: int) -> float:
        """Of all pixels, those of a class."""
        return float(self.of_class[number]) / self.pixels if self.pixels else 0.0


def summarise(files: Files, seed: int, count: int) -> Summary:
    """Read the index; the sample of `count` images depends on their names and the seed alone."""
    found = Summary()
    for rows in last_rows(files, _COLUMNS):
        sound = rows.filter(pc.equal(rows.column("error"), ""))
        found.done += sound.num_rows
        found.broken += rows.num_rows - sound.num_rows
        _count_pixels(found, sound, files)
        made = sound.filter(pc.is_valid(sound.column("ms")))
        _count_moments(found, made.column("finished_utc").cast("int64").to_numpy() // 1000)
        times = zip(made.column("ms").to_pylist(), made.column("path").to_pylist(), strict=True)
        found.slowest = heapq.nlargest(MOST_SHOWN, [*found.slowest, *times])
        _name_broken(found, rows)
        found.sample = heapq.nsmallest(count, [*found.sample, *_drawn(sound, seed)])
    return found


def _count_moments(found: Summary, seconds: NDArray[np.int64]) -> None:
    known = seconds[(seconds >= 0) & (seconds < _LAST_S)] // found.unit_s
    found.moments.update(dict(zip(*(part.tolist() for part in np.unique(known, return_counts=True)), strict=True)))
    if found.unit_s == 1 and len(found.moments) > _MOST_MOMENTS:
        found.unit_s, seen, found.moments = 60, found.moments, Counter()
        for moment, count in seen.items():
            found.moments[moment // found.unit_s] += count


def _count_pixels(found: Summary, sound: Any, files: Files) -> None:
    if not sound.num_rows:
        return
    pixels = sound.column("height").to_numpy().astype(np.int64) * sound.column("width").to_numpy()
    column = sound.column("shares").combine_chunks()
    flat, lengths = column.flatten(), {*pc.unique(pc.list_value_length(column)).to_pylist()}
    known = {len(found.of_class)} if np.ndim(found.of_class) else lengths
    if flat.null_count or None in lengths or len(lengths) > 1 or lengths != known:
        where = files.store.address(FOLDER)
        raise InputError(f"{where} has rows without shares, or with those of other classes", hint=DELETE)
    shares = flat.to_numpy().reshape(sound.num_rows, *lengths)
    found.of_class = found.of_class + (shares * pixels[:, None]).sum(0)
    found.pixels += int(pixels.sum())


def _name_broken(found: Summary, rows: Any) -> None:
    broken = rows.filter(pc.not_equal(rows.column("error"), "")).slice(0, MOST_SHOWN - len(found.reasons))
    found.reasons |= dict(zip(broken.column("path").to_pylist(), broken.column("error").to_pylist(), strict=True))


def _drawn(sound: Any, seed: int) -> Iterator[tuple[str, str, str]]:
    key = str(seed).encode()[:64]
    for mask, name in zip(sound.column("mask").to_pylist(), sound.column("path").to_pylist(), strict=True):
        if mask.endswith(".png"):
            yield hashlib.blake2b(name.encode(), digest_size=8, key=key).hexdigest(), mask, name
