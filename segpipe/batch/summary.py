"""What the index tells of a version, counted in one pass and little memory: speed, shares, slowest, broken."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from segpipe.batch.index import Files
from segpipe.batch.latest import last_rows

_COLUMNS = ("path", "error", "ms", "finished_utc", "shares", "height", "width", "mask")
MOST_SHOWN = 20
"""Slowest and broken images that are named."""
_MINUTE_MS = 60_000


@dataclass
class Summary:
    """Sums over the last row of each image."""

    done: int = 0
    broken: int = 0
    pixels: int = 0
    of_class: Any = 0.0
    """Pixels of each class."""
    minutes: Counter[int] = field(default_factory=Counter)
    """Images that were segmented in each minute since 1970."""
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
        _count_pixels(found, sound)
        made = sound.filter(pc.is_valid(sound.column("ms")))
        stamps = made.column("finished_utc").cast("int64").to_numpy() // _MINUTE_MS
        found.minutes.update(dict(zip(*(part.tolist() for part in np.unique(stamps, return_counts=True)), strict=True)))
        times = zip(made.column("ms").to_pylist(), made.column("path").to_pylist(), strict=True)
        found.slowest = heapq.nlargest(MOST_SHOWN, [*found.slowest, *times])
        _name_broken(found, rows)
        found.sample = heapq.nsmallest(count, [*found.sample, *_drawn(sound, seed)])
    return found


def _count_pixels(found: Summary, sound: Any) -> None:
    if not sound.num_rows:
        return
    pixels = sound.column("height").to_numpy().astype(np.int64) * sound.column("width").to_numpy()
    shares = np.stack(sound.column("shares").to_pylist())
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
