"""A synthetic data set: overlapping shapes on textured backgrounds. The same frames on every machine, from integers."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.id_maps import IDS_A_CLASS, UNLABELLED
from stages.config.root import ShapesData

VERSION = 1
CLASSES = ("background", "disc", "box", "triangle", "ring")
PALETTE = ((58, 64, 74), (228, 87, 86), (76, 147, 221), (245, 190, 65), (94, 190, 125))
IGNORE = 255

_PAINTS = ((110, 110, 115), (185, 95, 90), (85, 120, 180), (180, 150, 80), (95, 160, 105))
_SPREAD = 34  # how far a shape's colour may lie from its class's paint: colours overlap, outlines decide

_SPLITS = {"train": 0, "val": 1, "test": 2}
_CRUMB_PX = 30  # visible pixels below which a shape is none
_BORDER = 1  # pixels on either side of a shape's outline that are labelled ignore


class ShapesSplit:
    """Frames drawn on demand from (seed, split, index). The same frames with `ids`, whose labels are id maps."""

    def __init__(self, config: ShapesData, split: str, ids: bool = False) -> None:
        self._config = config
        self._split = split
        self._ids = ids

    def __len__(self) -> int:
        count: int = getattr(self._config, self._split)
        return count

    def name(self, index: int) -> str:
        """A name for messages and files."""
        return f"shapes-{self._split}-{index:04d}"

    def sample(self, index: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """RGB frame HxWx3, and class numbers HxW, 255 on the outlines; or an id map, in which crumbs are unlabelled."""
        rng = np.random.default_rng((VERSION, self._config.seed, _SPLITS[self._split], index))
        size = (self._config.height, self._config.width)
        image = _texture(rng, size, _colour(rng, 0))
        labels, ids, drawn = np.zeros(size, np.uint8), np.zeros(size, np.uint16), [0] * len(CLASSES)
        for _ in range(int(rng.integers(3, 8))):
            kind, area = _add_shape(rng, image, labels)
            drawn[kind] += 1
            ids[area > 0] = kind * IDS_A_CLASS + drawn[kind]
        noise = rng.integers(-10, 11, image.shape, np.int16)
        return (image + noise).clip(0, 255).astype(np.uint8), _without_crumbs(ids) if self._ids else labels


def _without_crumbs(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """What little the later shapes left of a shape is nobody's."""
    codes, counts = np.unique(ids, return_counts=True)
    crumbs = codes[(codes % IDS_A_CLASS != 0) & (counts < _CRUMB_PX)]
    return np.where(np.isin(ids, crumbs), UNLABELLED, ids).astype(np.uint16)


def _add_shape(
    rng: np.random.Generator, image: NDArray[np.int16], labels: NDArray[np.uint8]
) -> tuple[int, NDArray[np.uint8]]:
    """Paint one shape over what is there, with its own texture and an ignored outline; its class, and where it is."""
    kind = int(rng.integers(1, len(CLASSES)))
    area = _silhouette(rng, kind, labels.shape[:2])
    kernel = np.ones((2 * _BORDER + 1, 2 * _BORDER + 1), np.uint8)
    outline = cv2.dilate(area, kernel) != cv2.erode(area, kernel)
    image[area > 0] = _texture(rng, labels.shape[:2], _colour(rng, kind))[area > 0]
    labels[area > 0] = kind
    labels[outline] = IGNORE
    return kind, area


def _silhouette(rng: np.random.Generator, kind: int, size: tuple[int, ...]) -> NDArray[np.uint8]:
    """A filled shape of this class as a 0/1 image."""
    height, width = size
    area = np.zeros((height, width), np.uint8)
    radius = int(rng.integers(min(height, width) // 9, min(height, width) // 4))
    centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
    turn = float(rng.integers(0, 360))
    if kind == 1:
        cv2.circle(area, centre, radius, 1, -1)
    elif kind == 4:
        cv2.circle(area, centre, radius, 1, -1)
        cv2.circle(area, centre, radius // 2, 0, -1)
    else:
        corners = (45, 135, 225, 315) if kind == 2 else (90, 210, 330)
        points = [
            (
                round(centre[0] + 1.2 * radius * math.cos(math.radians(turn + corner))),
                round(centre[1] + 1.2 * radius * math.sin(math.radians(turn + corner))),
            )
            for corner in corners
        ]
        cv2.fillPoly(area, [np.array(points, np.int32)], (1,))
    return area


def _colour(rng: np.random.Generator, kind: int) -> NDArray[np.int16]:
    return np.array(_PAINTS[kind], np.int16) + rng.integers(-_SPREAD, _SPREAD + 1, 3, np.int16)


def _texture(rng: np.random.Generator, size: tuple[int, ...], colour: NDArray[np.int16]) -> NDArray[np.int16]:
    """A colour with checks or stripes of a random period and strength, and a slope of brightness."""
    height, width = size
    rows, columns = np.arange(height, dtype=np.int16)[:, None], np.arange(width, dtype=np.int16)[None]
    period = int(rng.integers(4, 13))
    across, down = (rows // period) % 2, (columns // period) % 2
    pattern = (across ^ down, across + 0 * down, down + 0 * across)[int(rng.integers(0, 3))]
    slope = rows * int(rng.integers(-20, 21)) // height + columns * int(rng.integers(-20, 21)) // width
    brightness = pattern * int(rng.integers(-24, 25)) + slope
    return colour + brightness[:, :, None]
