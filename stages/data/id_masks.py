"""How published sets write things into PNGs, and what an id map makes of it. Arrays in, id maps out: reads no file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import DataError
from segpipe.id_maps import IDS_A_CLASS, UNLABELLED
from stages.data.known import LABEL_SETS

_CITYSCAPES_STEP = 1000
"""Cityscapes' instanceIds: below it a label, from it on 1000 x label + thing, things from 0."""
_VOC_VOID = 255


def checked_ids(ids: NDArray[Any], classes: Sequence[str], name: str) -> NDArray[np.uint16]:
    """A map that is written as ours are; DataError where it names a class that there is not."""
    foreign = (ids != UNLABELLED) & (ids // IDS_A_CLASS >= len(classes))
    if foreign.any():
        value = int(ids[foreign].flat[0])
        raise DataError(
            f"{name} holds {value}, which is class {value // IDS_A_CLASS} of {len(classes)}",
            hint=f"write {IDS_A_CLASS} x class + thing as 16 bits, thing 0 for surfaces and {UNLABELLED} for no label",
        )
    return ids.astype(np.uint16)


def from_cityscapes(instance_ids: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """gtFine's *_instanceIds.png to the 19 classes. A group of things that nobody took apart is thing 0."""
    apart = instance_ids >= _CITYSCAPES_STEP
    labels = np.where(apart, instance_ids // _CITYSCAPES_STEP, instance_ids)
    things = np.where(apart, instance_ids % _CITYSCAPES_STEP + 1, 0)
    return _joined(LABEL_SETS["cityscapes"].table({})[labels], things, name)


def from_voc(classes: NDArray[Any], objects: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """SegmentationClass and SegmentationObject; outlines are unlabelled in both."""
    if classes.shape != objects.shape:
        raise DataError(
            f"{name}: the classes are {classes.shape}, the objects {objects.shape}", hint="both are of one image"
        )
    void = (classes == _VOC_VOID) | (objects == _VOC_VOID)
    return _joined(np.where(void, _VOC_VOID, classes), np.where(void, 0, objects), name)


def _joined(classes: NDArray[Any], things: NDArray[Any], name: str) -> NDArray[np.uint16]:
    """255 is no class."""
    if things.max(initial=0) >= IDS_A_CLASS:
        raise DataError(f"{name} numbers a thing {int(things.max())}", hint=f"at most {IDS_A_CLASS - 1} a class")
    ids = classes.astype(np.int64) * IDS_A_CLASS + things
    return np.where(classes == _VOC_VOID, UNLABELLED, ids).astype(np.uint16)
