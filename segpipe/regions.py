"""Where the classes of a mask lie: pixels counted, polygons, COCO's run lengths, boxes."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[Any]

_BLOCK_PIXELS = 1 << 22  # counted at a time: numpy widens each to 8 bytes


@dataclass(frozen=True, eq=False)
class Polygon:
    """A connected piece of a class. Points are (x, y): whole numbers, the centres of the piece's own border pixels.

    `cv2.fillPoly(canvas, [outline, *holes], 1)` paints exactly the piece's pixels. One pixel is a polygon of one point.
    """

    outline: NDArray[np.int32]
    """Nx2. Pixels that touch at a corner belong together."""
    holes: tuple[NDArray[np.int32], ...] = ()
    """Around what is cut out, each Nx2: the piece's pixels next to the hole."""


def count_pixels(mask: Mask, classes: int) -> NDArray[np.int64]:
    """Pixels of each class; what is no class is counted nowhere."""
    flat, counts = mask.reshape(-1), np.zeros(classes, np.int64)
    for start in range(0, flat.size, _BLOCK_PIXELS):
        counts += np.bincount(flat[start : start + _BLOCK_PIXELS], minlength=classes)[:classes]
    return counts


def polygons_of(region: NDArray[np.bool_]) -> list[Polygon]:
    """The connected pieces of a region with their holes; a piece inside a hole is a polygon of its own."""
    rings, links = cv2.findContours(region.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not rings:
        return []
    points = [np.asarray(ring, np.int32).reshape(-1, 2) for ring in rings]
    holes: dict[int, list[NDArray[np.int32]]] = {}
    for ring, (_, _, _, parent) in zip(points, links.reshape(-1, 4), strict=True):
        holes.setdefault(int(parent), []).append(ring)
    outer = (number for number, link in enumerate(links.reshape(-1, 4)) if link[3] < 0)
    return [Polygon(points[number], tuple(holes.get(number, ()))) for number in outer]


def rings_beyond(mask: Mask, classes: int, most: int) -> int:
    """0 where `polygons_of` finds at most so many outlines and holes in all classes; else how many there are at least.

    Found without making them: each costs some hundred bytes, and a mask may have nearly as many as pixels.
    """
    if _most_rings(mask) <= most:
        return 0
    count = 0
    for label in np.flatnonzero(count_pixels(mask, classes)):
        count += _count_rings(mask == label)
        if count > most:
            return count
    return 0


def _most_rings(mask: Mask) -> int:
    """At least as many as there are, in one go for all classes.

    Each piece has a first pixel, which touches none of its class before it, and each hole one that lies below and
    beside the class around it. Those at the mask's edge count whatever they are.
    """
    pixels, above, before = mask[1:, 1:-1], mask[:-1, 1:-1], mask[1:, :-2]
    differs = pixels != above
    first = differs & (pixels != before) & (pixels != mask[:-1, :-2]) & (pixels != mask[:-1, 2:])
    inside = differs & (above == before)
    height, width = mask.shape
    return int(np.count_nonzero(first) + np.count_nonzero(inside)) + width + 2 * height


def _count_rings(region: NDArray[np.bool_]) -> int:
    """Pieces touch by their corners too, holes do not; all that reaches the edge is one with what lies outside."""
    pieces, _ = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    beside = np.pad(~region, 1, constant_values=True).astype(np.uint8)
    holes, _ = cv2.connectedComponents(beside, connectivity=4)
    return (pieces - 1) + (holes - 2)  # without the background of each, and without the outside


def run_lengths(mask: Mask, classes: int) -> list[NDArray[np.int64]]:
    """For each class the lengths of runs, columns one after another, that are not, are, are not of the class."""
    columns = np.ascontiguousarray(mask.T).reshape(-1)
    starts = np.concatenate([[0], np.flatnonzero(columns[1:] != columns[:-1]) + 1])
    ends, values = np.append(starts[1:], columns.size), columns[starts]
    runs = []
    for label in range(classes):
        own = values == label
        edges = np.stack([starts[own], ends[own]], 1).reshape(-1)
        counts = np.diff(edges, prepend=0, append=columns.size)
        runs.append(counts[:-1] if counts[-1] == 0 else counts)
    return runs


def compressed(runs: NDArray[np.int64]) -> str:
    """COCO's text for run lengths: from the fourth on differences to the last but one, 5 bits a character."""
    values = runs.copy()
    values[3:] -= runs[1:-2]
    text = bytearray()
    for value in values.tolist():
        rest, more = value, True
        while more:
            bits = rest & 0x1F
            rest >>= 5
            more = rest != (-1 if bits & 0x10 else 0)
            text.append(48 + bits + 0x20 * more)
    return text.decode()


def boxes_of(regions: NDArray[np.bool_]) -> NDArray[np.int64]:
    """First and last column and row of each of NxHxW regions that are not empty: (x, y, x, y), both ends inside."""
    rows, columns = np.asarray(regions.any(2)), np.asarray(regions.any(1))
    height, width = regions.shape[1:]
    left, top = columns.argmax(1), rows.argmax(1)
    right, bottom = width - 1 - columns[:, ::-1].argmax(1), height - 1 - rows[:, ::-1].argmax(1)
    return np.stack([left, top, right, bottom], 1).astype(np.int64)
