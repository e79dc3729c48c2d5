"""Splits whose labels tell things one by one: whatever a set wrote, an id map for each frame."""

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import DataError
from stages.config.root import CityscapesData, CocoData, InputConfig, VocData
from stages.data.coco import CocoSet
from stages.data.files import Sample, known_coco, label_set
from stages.data.id_masks import checked_ids, from_cityscapes, from_voc
from stages.data.layout import FilesConfig
from stages.data.reading import read_frame, read_labels


class ThingsSplit:
    """One split read from files. `frames` says what the contract takes."""

    def __init__(self, config: FilesConfig, samples: list[Sample], frames: InputConfig) -> None:
        self._config, self._samples, self._frames = config, samples, frames
        self._classes = label_set(config).classes

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """A name for messages and files."""
        return self._samples[index].image.stem

    def sample(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint16]]:
        """Frame and id map; refused when they are not of one size."""
        sample = self._samples[index]
        frame, ids = read_frame(sample.image, self._frames), self._ids(sample)
        if frame.shape[:2] != ids.shape:
            raise DataError(
                f"{sample.image} is {frame.shape[0]}x{frame.shape[1]}, its things in {sample.mask} are of "
                f"{ids.shape[0]}x{ids.shape[1]}",
                hint="labels have their image's height and width",
            )
        return frame, ids

    def _ids(self, sample: Sample) -> NDArray[np.uint16]:
        assert sample.mask is not None
        name = str(sample.mask)
        match self._config:
            case CocoData():
                assert sample.listed is not None
                return self._coco.id_map(sample.listed)
            case CityscapesData():
                return from_cityscapes(read_labels(sample.mask, None), name)
            case VocData():
                assert sample.objects is not None
                return from_voc(read_labels(sample.mask, None), read_labels(sample.objects, None), name)
            case _:
                return checked_ids(read_labels(sample.mask, None), self._classes, name)

    @cached_property
    def _coco(self) -> CocoSet:
        """The file that all samples of a split share."""
        file = self._samples[0].mask
        assert file is not None
        return known_coco(file, self._classes)
