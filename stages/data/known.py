"""Classes, colours and label values of the known data sets."""

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segpipe.palette import Colour, Colours

_IGNORE = 255


@dataclass(frozen=True)
class LabelSet:
    """What label values in the files mean. `values` maps them to classes; values it does not name stay as they are."""

    classes: tuple[str, ...]
    palette: Colours
    ignore_index: int = _IGNORE
    values: Mapping[int, int] = field(default_factory=dict)
    things: tuple[str, ...] = ()
    """Classes that are told one by one; empty where it is all but the first."""

    def table(self, remap: Mapping[str, int]) -> NDArray[np.uint16]:
        """Label value in a file -> class number or ignore index; the config's own remapping comes last."""
        table = np.arange(65536, dtype=np.uint16)
        for value, label in {**self.values, **{int(key): label for key, label in remap.items()}}.items():
            table[value] = label
        return table


def distinct_colours(count: int) -> Colours:
    """Well separated colours for classes that have none."""
    golden = 0.61803398875
    shades = [colorsys.hsv_to_rgb((index * golden) % 1, 0.55 + 0.3 * (index % 2), 0.9) for index in range(count)]
    return tuple((round(r * 255), round(g * 255), round(b * 255)) for r, g, b in shades)


_CAMVID: dict[str, Colour] = {
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

_CITYSCAPES: dict[str, tuple[int, Colour]] = {  # name: (label id, colour)
    "road": (7, (128, 64, 128)),
    "sidewalk": (8, (244, 35, 232)),
    "building": (11, (70, 70, 70)),
    "wall": (12, (102, 102, 156)),
    "fence": (13, (190, 153, 153)),
    "pole": (17, (153, 153, 153)),
    "traffic light": (19, (250, 170, 30)),
    "traffic sign": (20, (220, 220, 0)),
    "vegetation": (21, (107, 142, 35)),
    "terrain": (22, (152, 251, 152)),
    "sky": (23, (70, 130, 180)),
    "person": (24, (220, 20, 60)),
    "rider": (25, (255, 0, 0)),
    "car": (26, (0, 0, 142)),
    "truck": (27, (0, 0, 70)),
    "bus": (28, (0, 60, 100)),
    "train": (31, (0, 80, 100)),
    "motorcycle": (32, (0, 0, 230)),
    "bicycle": (33, (119, 11, 32)),
}

_VOC: dict[str, Colour] = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "dining table": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "potted plant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "monitor": (0, 64, 128),
}

_FIRST_THING = 24
"""Of Cityscapes' label ids: a person."""
_CITYSCAPES_IDS = {identity: number for number, (identity, _) in enumerate(_CITYSCAPES.values())}

LABEL_SETS = {
    "camvid": LabelSet(tuple(_CAMVID), tuple(_CAMVID.values()), values={11: _IGNORE}),
    "cityscapes": LabelSet(
        tuple(_CITYSCAPES),
        tuple(colour for _, colour in _CITYSCAPES.values()),
        values={value: _CITYSCAPES_IDS.get(value, _IGNORE) for value in range(256)},
        things=tuple(name for name, (identity, _) in _CITYSCAPES.items() if identity >= _FIRST_THING),
    ),
    "voc": LabelSet(tuple(_VOC), tuple(_VOC.values())),
    "pet": LabelSet(("background", "pet"), ((70, 80, 95), (240, 150, 60)), values={1: 1, 2: 0, 3: _IGNORE}),
}
