"""The worst images as pictures: frame, reference, candidate, and the flips coloured by the reference's margin."""

import heapq
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract.schema import Contract
from segpipe.media.images import encode_png
from segpipe.result import Result
from stages.validate.judging.judge import Seen

_MARGINS = (1e-3, 1e-2, 1e-1)
_COLOURS = ((90, 160, 255), (255, 220, 60), (255, 140, 30), (255, 30, 60))
_NAMES = ("margin below 0.001", "0.001 to 0.01", "0.01 to 0.1", "0.1 and more: not rounding")
_WIDEST = 480  # pixels of one picture; larger frames are shown smaller


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
    """One row of four pictures under titles, with legends of classes and margins, as PNG."""
    image = draw.displayable(seen.image.frame, contract.value_range)
    flips = image // 3
    bins = np.searchsorted(_MARGINS, seen.flips.margins, "right")
    flips.reshape(-1, 3)[seen.flips.at] = np.array(_COLOURS, np.uint8)[bins]
    reference, candidate = (Result(side.mask, contract, palette).colour() for side in (seen.reference, seen.candidate))
    row = [image, reference, candidate, flips]
    row = [_shrunk(picture) for picture in row]
    width = 4 * row[0].shape[1]
    legends = np.concatenate([draw.legend(contract.classes, palette, width), draw.legend(_NAMES, _COLOURS, width)])
    titles = ("frame", "reference", f"hop {seen.hop}", f"{seen.flips.count} flips, {seen.flips.inside} inside")
    sheet = draw.contact_sheet([row], titles, legends)
    return encode_png(f"hop {seen.hop}", sheet)


def _shrunk(picture: NDArray[Any]) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    scale = min(1.0, _WIDEST / width)
    if scale == 1.0:
        return picture.astype(np.uint8)
    size = (round(width * scale), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
