"""Data sets by name. Light: no torch, so that a fresh stage can be recognised without it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from segpipe.rundir.storage import sha256_of_bytes
from stages.config.root import Config, InstancesConfig, ShapesData
from stages.data import files, shapes
from stages.data.things import ThingsSplit

SplitName = Literal["train", "val", "test"]


class Split(Protocol):
    """Frames HxWxC with labels HxW: class numbers or the ignore index; where things are told one by one, id maps."""

    def __len__(self) -> int: ...
    def name(self, index: int) -> str: ...
    def sample(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]: ...


@dataclass(frozen=True)
class Labels:
    """What the class numbers mean."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    things: tuple[str, ...] = ()
    """Classes that are told one by one where nobody says which; empty: all but the first."""


def labels_of(config: Config) -> Labels:
    """Classes, colours and ignore index of the configured set."""
    if isinstance(config.data, ShapesData):
        return Labels(shapes.CLASSES, shapes.PALETTE, shapes.IGNORE)
    kind = files.label_set(config.data)
    return Labels(kind.classes, kind.palette, kind.ignore_index, kind.things)


def open_split(config: Config, base: Path, split: SplitName, complete: bool = True) -> Split:
    """One split; `base` is where relative paths in the config start. Unless `complete`, missing files are left out."""
    things = isinstance(config.task, InstancesConfig)
    if isinstance(config.data, ShapesData):
        return shapes.ShapesSplit(config.data, split, ids=things)
    if things:
        return ThingsSplit(config.data, files.find_samples(config.data, base, split, complete, things), config.input)
    return files.FileSplit(config.data, files.find_samples(config.data, base, split, complete), config.input)


def fingerprint(config: Config, base: Path, cache: Path | None) -> str:
    """A hash of everything that decides the pixels of all splits: files by content, synthetic data by its recipe."""
    things = isinstance(config.task, InstancesConfig)
    if isinstance(config.data, ShapesData):
        ids = {"ids": True} if things else {}
        recipe = {"version": shapes.VERSION, **config.data.model_dump(mode="json"), **ids}
        return sha256_of_bytes(json.dumps(recipe, sort_keys=True).encode())
    return files.fingerprint(config.data, base, cache, things)
