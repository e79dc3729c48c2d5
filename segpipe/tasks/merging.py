"""Things that several tiles of a frame show: which of them are one, and what that one is. numpy; knows no network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segpipe.id_maps import Crop

_SAME = 0.5  # of the part of the frame that both tiles show; below it two things are two
_INSIDE = 0.8  # of a thing that its tile cuts, to be a part of another one

Rect = tuple[int, int, int, int]
"""Left, top, right and bottom edge in pixels of the frame."""


@dataclass(frozen=True, eq=False)
class Part:
    """A thing as one tile shows it, in pixels of the frame. It lies inside its tile."""

    box: NDArray[np.float32]
    score: float
    label: int
    crop: Crop | None
    """None where the network gives boxes alone."""
    tile: Rect
    cut: bool
    """Whether it reaches an edge behind which the frame goes on: there may be more of it."""

    @property
    def area(self) -> float:
        """Pixels of the mask, or of the box."""
        return float((self.box[2:] - self.box[:2]).prod()) if self.crop is None else self.crop.area

    def shared_with(self, other: "Part") -> float:
        """Pixels of both."""
        if self.crop is not None and other.crop is not None:
            return self.crop.shared_with(other.crop)
        low, high = np.maximum(self.box[:2], other.box[:2]), np.minimum(self.box[2:], other.box[2:])
        return float((high - low).clip(0).prod())

    def within(self, area: Rect) -> "Part":
        """What of it lies in an area."""
        left, top, right, bottom = area
        box = np.array([*np.maximum(self.box[:2], (left, top)), *np.minimum(self.box[2:], (right, bottom))], np.float32)
        box[2:] = np.maximum(box[:2], box[2:])
        return replace(self, box=box, crop=None if self.crop is None else self.crop.within(area))


def merged(parts: Sequence[Part]) -> list[Part]:
    """Each thing once. `parts` come tile by tile, tiles row by row."""
    groups = _groups(parts)
    found = [_together([parts[number] for number in group]) for group in groups]
    tiles = [{parts[number].tile for number in group} for group in groups]
    boxes = np.array([one.box for one in found], np.float32).reshape(-1, 4)
    kept = []
    for number, one in enumerate(found):
        near = [k for k in _touching(one, boxes).tolist() if k != number and found[k].label == one.label]
        if not one.cut or not any(not tiles[k] & tiles[number] and _is_inside(one, found[k]) for k in near):
            kept.append(one)
    return kept


def _groups(parts: Sequence[Part]) -> list[list[int]]:
    """Numbers of the parts of each thing. A tile that tells two things apart is believed."""
    groups = {number: [number] for number in range(len(parts))}
    group_of = [*groups]
    for _, i, j in sorted(_alike(parts), key=lambda found: -found[0]):
        one, other = group_of[i], group_of[j]
        tiles = [{parts[number].tile for number in groups[group]} for group in (one, other)]
        if one == other or tiles[0] & tiles[1]:
            continue
        groups[one] += groups.pop(other)
        for number in groups[one]:
            group_of[number] = one
    return [*groups.values()]


def _alike(parts: Sequence[Part]) -> Iterator[tuple[float, int, int]]:
    """Pairs of two tiles that are the same where both tiles show the frame, and how much so."""
    boxes = np.array([part.box for part in parts], np.float32).reshape(-1, 4)
    tops = np.array([part.tile[1] for part in parts])
    for i, one in enumerate(parts):
        end = int(np.searchsorted(tops, one.tile[3]))  # tiles below begin behind it
        for j in (i + 1 + _touching(one, boxes[i + 1 : end])).tolist():
            other = parts[j]
            if one.label == other.label and one.tile != other.tile:
                likeness = _likeness(one, other)
                if likeness >= _SAME:
                    yield likeness, i, j


def _touching(one: Part, boxes: NDArray[np.float32]) -> NDArray[np.intp]:
    """Numbers of the boxes that share a place with it."""
    return np.flatnonzero((boxes[:, :2] < one.box[2:]).all(1) & (boxes[:, 2:] > one.box[:2]).all(1))


def _likeness(one: Part, other: Part) -> float:
    """IoU in the area that both tiles show."""
    (left, top), (right, bottom) = map(max, one.tile[:2], other.tile[:2]), map(min, one.tile[2:], other.tile[2:])
    both = one.shared_with(other)
    union = sum(part.within((left, top, right, bottom)).area for part in (one, other)) - both
    return both / union if union > 0 else 0.0


def _is_inside(one: Part, other: Part) -> bool:
    return one.area > 0 and one.shared_with(other) >= _INSIDE * one.area


def _together(parts: Sequence[Part]) -> Part:
    """The surest that its tile shows whole, if the others are parts of it; else all of them."""
    score = max(part.score for part in parts)
    whole = max((part for part in parts if not part.cut), key=lambda part: part.score, default=None)
    if whole is not None and all(_is_inside(part, whole) for part in parts if part.cut):
        return replace(whole, score=score)
    if len(parts) == 1:
        return parts[0]
    edges = np.array([part.box for part in parts])
    box = np.array([*edges[:, :2].min(0), *edges[:, 2:].max(0)], np.float32)
    crops = [part.crop for part in parts if part.crop is not None]
    cut = all(part.cut for part in parts)
    return replace(parts[0], box=box, score=score, crop=_joined(crops) if crops else None, cut=cut)


def _joined(crops: Sequence[Crop]) -> Crop:
    """Every pixel of any of them."""
    left, top = min(crop.left for crop in crops), min(crop.top for crop in crops)
    bottom, right = (max(crop.region[axis].stop for crop in crops) for axis in (0, 1))
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for crop in crops:
        height, width = crop.mask.shape
        mask[crop.top - top :, crop.left - left :][:height, :width] |= crop.mask
    return Crop(mask, left, top)
