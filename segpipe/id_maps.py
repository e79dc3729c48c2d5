"""Id maps: a number for each pixel that says its class and which thing of that class it is. Owns the numbering.

A pixel holds 1000 x class + thing; thing 0 is the class without a thing: a surface, or a crowd that nobody took apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IDS_A_CLASS = 1000
"""So 999 things of a class fit into a frame, and 65 classes into 16 bits."""
UNLABELLED = 65535
"""Counts nowhere."""
NO_CLASS = 255
"""In class numbers made of an id map."""


@dataclass(frozen=True, eq=False)
class Crop:
    """The part of a frame that holds a thing."""

    mask: NDArray[np.bool_]
    """HxW of the part."""
    left: int
    top: int
    """Of its first pixel, in the frame."""

    @property
    def area(self) -> int:
        """Pixels of the thing."""
        return int(np.count_nonzero(self.mask))

    @property
    def region(self) -> tuple[slice, slice]:
        """Where it lies in the frame."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)

    def within(self, area: tuple[int, int, int, int]) -> "Crop":
        """What of it lies in an area of the frame: left, top, right and bottom edge. A view."""
        left, top, right, bottom = area
        rows = slice(max(top - self.top, 0), max(bottom - self.top, 0))
        columns = slice(max(left - self.left, 0), max(right - self.left, 0))
        return Crop(self.mask[rows, columns], max(self.left, left), max(self.top, top))

    def shared_with(self, other: "Crop") -> int:
        """Pixels of both."""
        height, width = other.mask.shape
        ours = self.within((other.left, other.top, other.left + width, other.top + height))
        height, width = self.mask.shape
        theirs = other.within((self.left, self.top, self.left + width, self.top + height))
        return int(np.count_nonzero(ours.mask & theirs.mask))


@dataclass(frozen=True, eq=False)
class Thing:
    """One thing of an id map."""

    code: int
    """The number of its pixels."""
    crop: Crop

    @property
    def label(self) -> int:
        """Its class number."""
        return self.code // IDS_A_CLASS

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom edge: the first pixel, and the one after the last."""
        height, width = self.crop.mask.shape
        return self.crop.left, self.crop.top, self.crop.left + width, self.crop.top + height


def classes_in(ids: NDArray[Any]) -> NDArray[np.uint8]:
    """HxW class numbers, 255 where nobody said one."""
    return np.where(ids == UNLABELLED, NO_CLASS, ids // IDS_A_CLASS).astype(np.uint8)


def things_in(ids: NDArray[Any]) -> list[Thing]:
    """Every thing, by rising number."""
    codes = np.unique(ids)
    return [Thing(int(code), tight(ids == code)) for code in codes if is_thing(int(code))]


def is_thing(code: int) -> bool:
    """Whether a pixel of this number belongs to a thing."""
    return code != UNLABELLED and code % IDS_A_CLASS != 0


def tight(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> Crop:
    """A mask without its empty margins; an empty one keeps no pixel. `left`, `top`: where it lies."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Crop(np.zeros((0, 0), np.bool_), left, top)
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Crop(np.ascontiguousarray(part), left + int(columns[0]), top + int(rows[0]))
