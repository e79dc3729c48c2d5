"""Which frames INT8 is calibrated on and tried on, and that the gate judges by none of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import DataError
from segpipe.runtime.preprocess import check_frame, preprocess
from stages.config.root import Config
from stages.data import Split, SplitName, open_split
from stages.data.choosing import chosen, spread
from stages.data.files import has_labels

_TRIED = 24
"""Labelled frames on which a choice of layers is tried. The gate judges the result by others."""


@dataclass(frozen=True)
class Sample:
    """A frame HxWxC, its labels HxW where there are some, and its name."""

    name: str
    frame: NDArray[Any]
    labels: NDArray[Any] | None


@dataclass(frozen=True)
class Frames:
    """Numbers of a split's frames: those to calibrate on, and others to try on."""

    split: Split
    name: SplitName
    calibrated: tuple[int, ...]
    tried: tuple[int, ...]
    labelled: bool
    contract: Contract

    def tensors(self) -> Iterator[NDArray[Any]]:
        """What the network gets of each calibration frame, batch 1."""
        for index in self.calibrated:
            frame = check_frame(self.split.sample(index)[0], self.contract)
            yield preprocess(frame, self.contract, self.contract.place(*frame.shape[:2]))[np.newaxis]

    def samples(self) -> Iterator[Sample]:
        """The frames to try on."""
        for index in self.tried:
            frame, labels = self.split.sample(index)
            yield Sample(self.split.name(index), check_frame(frame, self.contract), labels if self.labelled else None)


def frames_for(config: Config, base: Path, contract: Contract, trained_here: bool) -> Frames:
    """Of the train split. A network that comes from elsewhere may have none here: then what the gate leaves of val."""
    name: SplitName = "train"
    try:
        split = open_split(config, base, name)
        free = list(range(len(split)))
    except DataError:
        if trained_here:
            raise
        name, split = "val", open_split(config, base, "val")
        judged = set(chosen(len(split), config.validate_.images))
        free = [index for index in range(len(split)) if index not in judged]
    if not free:
        raise DataError(
            f"there are no calibration frames: the gate judges by all {len(split)} frames of val",
            hint="give [data] a train split, more frames of val, or a smaller validate.images",
        )
    calibrated = spread(free, config.compress.calibration_images)
    rest = sorted({*free} - {*calibrated}) or calibrated  # so few that they must do for both
    return Frames(split, name, tuple(calibrated), tuple(spread(rest, _TRIED)), has_labels(config.data), contract)
