"""Where an image's flips gather: what is worth a circle and a closer look."""

from dataclasses import dataclass

import cv2
import numpy as np

from stages.measuring.masks import Flips

_NEAR = 1 / 40  # of the image's width: flips this near are one place
_WIDE = 0.5  # of either side: flips that are everywhere are no place


@dataclass(frozen=True)
class Place:
    """A box of pixels around flips that lie near each other."""

    top: int
    left: int
    height: int
    width: int
    flips: int
    largest_margin: float


def places(flips: Flips, shape: tuple[int, int], most: int) -> list[Place]:
    """The places with most flips, first the largest."""
    flipped = np.zeros(shape, np.uint8)
    flipped.reshape(-1)[flips.at] = 1
    reach = 2 * max(1, round(shape[1] * _NEAR / 2)) + 1
    near = cv2.dilate(flipped, np.ones((reach, reach), np.uint8))
    count, labels = cv2.connectedComponents(near)
    of_flip = labels.reshape(-1)[flips.at]
    largest_first = np.argsort(-np.bincount(of_flip, minlength=count)[1:], kind="stable")[: 4 * most] + 1
    found = [_place(flips, of_flip == number, shape) for number in largest_first]
    narrow = (place for place in found if place.height <= _WIDE * shape[0] and place.width <= _WIDE * shape[1])
    return list(narrow)[:most]


def _place(flips: Flips, here: np.ndarray, shape: tuple[int, int]) -> Place:
    ys, xs = np.divmod(flips.at[here], shape[1])
    return Place(
        top=int(ys.min()),
        left=int(xs.min()),
        height=int(np.ptp(ys)) + 1,
        width=int(np.ptp(xs)) + 1,
        flips=int(here.sum()),
        largest_margin=float(flips.margins[here].max()),
    )
