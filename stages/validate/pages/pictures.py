"""The worst images as pictures: frame, reference, candidate, and the flips coloured by the reference's margin."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract.schema import Contract
from segpipe.result import Result
from stages.measuring.masks import Flips
from stages.pages.sheets import Legend, Row, encode_sheet
from stages.validate.judging.judge import Seen
from stages.validate.pages.places import Place, places

_MARGINS = (1e-3, 1e-2, 1e-1)
_COLOURS = ((90, 160, 255), (255, 220, 60), (255, 140, 30), (255, 30, 60))
_NAMES = ("margin below 0.001", "0.001 to 0.01", "0.01 to 0.1", "0.1 and more: not rounding")
_WIDEST, _NARROWEST = 480, 360  # pixels of one picture; frames between are shown as they are
_CIRCLED, _CLOSER = 8, 3  # places in an image
_AROUND = 7  # pixels between flips and their circle
_LEAST_CLOSER_PX = 24  # across a closer look, of the frame


@dataclass(order=True)
class Drawn:
    """A drawn image; ordered by how bad it is."""

    weight: tuple[int, int]
    number: int
    hop: str = field(compare=False)
    image: str = field(compare=False)
    flips: int = field(compare=False)
    flips_inside: int = field(compare=False)
    png: bytes = field(compare=False)


class WorstImages:
    """Keeps the worst few images as PNGs. Frames are let go, so memory does not grow."""

    def __init__(self, keep: int, contract: Contract, palette: draw.Palette) -> None:
        self._keep, self._contract, self._palette = keep, contract, palette
        self._heap: list[Drawn] = []
        self._number = 0

    def __call__(self, seen: Seen) -> None:
        """Draw it if it is among the worst so far."""
        if len(self._heap) == self._keep and not seen.weight > self._heap[0].weight:
            return
        self._number -= 1  # of equals the first stays
        png = draw_seen(seen, self._contract, self._palette)
        drawn = Drawn(seen.weight, self._number, seen.hop, seen.image.name, seen.flips.count, seen.flips.inside, png)
        heapq.heappush(self._heap, drawn)
        if len(self._heap) > self._keep:
            heapq.heappop(self._heap)

    def sorted(self) -> list[Drawn]:
        """Worst first."""
        return sorted(self._heap, reverse=True)


def draw_seen(seen: Seen, contract: Contract, palette: draw.Palette) -> bytes:
    """The image in four views, with a circle around each place of flips, and a row of them closer for the largest."""
    reference, candidate = (Result(side.mask, contract, palette).colour() for side in (seen.reference, seen.candidate))
    frame = draw.displayable(seen.image.frame, contract.value_range)
    flips, found = seen.flips, places(seen.flips, frame.shape[:2], _CIRCLED)
    views = (frame, reference, candidate, _with_flips(frame // 3, flips, frame.shape[1]))
    cell = _cell(frame.shape[:2])
    whole = (*(_sized(view, cell) for view in views[:3]), _circled(frame // 3, flips, found, cell))
    rows = [Row(f"{flips.count} flips, {flips.inside} inside", whole)]
    for number, place in enumerate(found[:_CLOSER], 1):
        crop = _around(place, frame.shape[:2])
        rows.append(Row(_said(number, place), tuple(_sized(view[crop], cell, whole=False) for view in views)))
    titles = ("frame", "reference", f"hop {seen.hop}", "flips")
    legends = [Legend(contract.classes, palette), Legend(_NAMES, _COLOURS)]
    return encode_sheet(rows, titles, legends, cell)


def _said(number: int, place: Place) -> str:
    flips = "1 flip" if place.flips == 1 else f"{place.flips} flips"
    return f"place {number}, closer: {flips}, against a margin of up to {place.largest_margin:.2g}"


def _cell(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the room for each picture; a small frame is shown larger, pixel by pixel."""
    height, width = shape
    scale = max(1, _NARROWEST // width) if width <= _WIDEST else _WIDEST / width
    return max(1, round(height * scale)), max(1, round(width * scale))


def _sized(picture: NDArray[Any], cell: tuple[int, int], whole: bool = True) -> NDArray[np.uint8]:
    interpolation = cv2.INTER_AREA if whole and picture.shape[1] > cell[1] else cv2.INTER_NEAREST
    return cv2.resize(picture, cell[::-1], interpolation=interpolation).astype(np.uint8)


def _with_flips(dimmed: NDArray[np.uint8], flips: Flips, width: int) -> NDArray[np.uint8]:
    """A dot for each flip of an image of this width; of two at one place the one that is no rounding is seen."""
    picture, scale = dimmed.copy(), dimmed.shape[1] / width
    ys, xs = ((numbers * scale).astype(int) for numbers in np.divmod(flips.at, width))
    order = np.argsort(flips.margins, kind="stable")  # no number comes last, and is no rounding either
    colours = np.array(_COLOURS, np.uint8)[np.searchsorted(_MARGINS, flips.margins, "right")]
    picture[ys[order].clip(max=dimmed.shape[0] - 1), xs[order].clip(max=dimmed.shape[1] - 1)] = colours[order]
    return picture


def _circled(
    dimmed: NDArray[np.uint8], flips: Flips, found: Sequence[Place], cell: tuple[int, int]
) -> NDArray[np.uint8]:
    """Flips at the size of the cell, where none of them is lost, under a circle around each place."""
    width = dimmed.shape[1]
    scale = cell[1] / width
    small = _sized(dimmed, cell) if scale < 1 else dimmed
    shown = _sized(_with_flips(small, flips, width), cell)
    for number, place in enumerate(found, 1):
        centre = (round((place.left + place.width / 2) * scale), round((place.top + place.height / 2) * scale))
        axes = (round(place.width / 2 * scale) + _AROUND, round(place.height / 2 * scale) + _AROUND)
        beside = (centre[0] + axes[0] + 2, centre[1] + 5)
        for colour, thickness in (((0, 0, 0), 4), ((255, 255, 255), 2)):
            cv2.ellipse(shown, centre, axes, 0, 0, 360, colour, thickness, cv2.LINE_AA)
            if number <= _CLOSER:
                cv2.putText(shown, str(number), beside, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return shown


def _around(place: Place, shape: tuple[int, int]) -> tuple[slice, slice]:
    """A part of the image in its own proportions, with the place in its middle as far as the image goes."""
    height, width = shape
    share = min(1.0, max(_LEAST_CLOSER_PX / width, 1.6 * place.width / width, 1.6 * place.height / height))
    sides = max(1, round(height * share)), max(1, round(width * share))
    top = min(max(place.top + (place.height - sides[0]) // 2, 0), height - sides[0])
    left = min(max(place.left + (place.width - sides[1]) // 2, 0), width - sides[1])
    return slice(top, top + sides[0]), slice(left, left + sides[1])
