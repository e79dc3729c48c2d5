"""Data sets in files: finds the pairs of image and mask, reads them, refuses what contradicts the config."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segpipe.errors import DataError, InputError
from segpipe.images import SUFFIXES, read_image
from segpipe.storage import sha256_of, sha256_of_bytes, write_atomically
from stages.config import CamVidData, CityscapesData, FolderData, VocData
from stages.data import known

FilesConfig = FolderData | CamVidData | CityscapesData | VocData
SPLITS = ("train", "val", "test")
_INDEX_MODES = ("L", "P", "I;16")


@dataclass(frozen=True)
class Sample:
    """One image and its mask."""

    image: Path
    mask: Path


class FileSplit:
    """One split read from files. `frame_type` is (channels, dtype) of the frames the contract describes."""

    def __init__(self, config: FilesConfig, base: Path, split: str, frame_type: tuple[int, str]) -> None:
        self._samples = find_samples(config, base, split)
        self._frame_type = frame_type
        self._labels = label_set(config)
        self._table = self._labels.table(config.remap)

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """A name for messages and files."""
        return self._samples[index].image.stem

    def sample(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Frame and labels; refused when they are not of one size."""
        frame, labels = self._frame(index), self._mask(index)
        if frame.shape[:2] != labels.shape:
            sample = self._samples[index]
            raise DataError(
                f"{sample.image} is {frame.shape[0]}x{frame.shape[1]}, its mask {sample.mask} is "
                f"{labels.shape[0]}x{labels.shape[1]}",
                hint="a mask has its image's height and width",
            )
        return frame, labels

    def _frame(self, index: int) -> NDArray[Any]:
        """The image, HxWxC, RGB; refused when the config describes something else."""
        path = self._samples[index].image
        try:
            pixels = read_image(path)
        except InputError as error:
            raise DataError(error.message, hint=error.hint) from None
        channels, dtype = self._frame_type
        if pixels.shape[2] != channels or pixels.dtype != dtype:
            raise DataError(
                f"{path} has {pixels.shape[2]} channels of {pixels.dtype}, the config says {channels} of {dtype}",
                hint="change [input] channels and dtype, or convert the image",
            )
        return pixels

    def _mask(self, index: int) -> NDArray[Any]:
        """Class numbers, HxW, after remapping; refused when a value is no class."""
        sample = self._samples[index]
        raw = _read_indices(sample.mask)
        labels = self._table[raw]
        if (foreign := self._foreign(labels)).any():
            value = int(raw[foreign].flat[0])
            raise DataError(
                f"{sample.mask} holds label {value}; the config has {len(self._labels.classes)} classes "
                f"and ignore index {self._labels.ignore_index}",
                hint=f'add the class, or remap it: [data] remap = {{ "{value}" = {self._labels.ignore_index} }}',
            )
        return labels

    def _foreign(self, labels: NDArray[Any]) -> NDArray[np.bool_]:
        foreign: NDArray[np.bool_] = (labels >= len(self._labels.classes)) & (labels != self._labels.ignore_index)
        return foreign


def label_set(config: FilesConfig) -> known.LabelSet:
    """Classes, colours and label values of a kind of data."""
    if isinstance(config, FolderData):
        palette = config.palette or known.distinct_colours(len(config.classes))
        if len(palette) != len(config.classes):
            raise DataError(
                f"[data] palette has {len(palette)} colours for {len(config.classes)} classes",
                hint="give one colour a class, or leave the palette out",
            )
        return known.LabelSet(config.classes, palette, config.ignore_index)
    return known.LABEL_SETS[config.kind]


def find_samples(config: FilesConfig, base: Path, split: str) -> list[Sample]:
    """The pairs of a split, in a fixed order. A set without test labels uses its val split for test."""
    root = base / config.root
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist", hint="set [data] root; it is relative to segpipe.toml"
        )
    samples = _pairs(config, root, split)
    if not samples and split == "test":
        return find_samples(config, base, "val")
    if not samples:
        raise DataError(f"the {split} split in {root} is empty", hint="check the names in [data]")
    absent = [path for sample in samples for path in (sample.image, sample.mask) if not path.is_file()]
    if absent:
        raise DataError(
            f"{len(absent)} files of the {split} split are missing, first {absent[0]}", hint="complete the set"
        )
    return samples


def fingerprint(config: FilesConfig, base: Path, cache: Path) -> str:
    """Hash of the file list with contents; contents are hashed again only when size or time changed."""
    root = base / config.root
    remembered: dict[str, list[Any]] = json.loads(cache.read_text()) if cache.exists() else {}
    lines, seen = [], {}
    for split in SPLITS:
        for sample in find_samples(config, base, split):
            for path in (sample.image, sample.mask):
                stat = path.stat()
                name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
                entry = remembered.get(name, [0, 0, ""])
                if entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                    entry = [stat.st_size, stat.st_mtime_ns, sha256_of(path)]
                seen[name] = entry
                lines.append(f"{split} {name} {entry[2]}")
    if seen != remembered:
        write_atomically(cache, json.dumps(seen).encode())
    return sha256_of_bytes("\n".join(lines).encode())


def _pairs(config: FilesConfig, root: Path, split: str) -> list[Sample]:
    match config:
        case CamVidData():
            return _listed(root, root / f"{split}.txt")
        case CityscapesData():
            pictures = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")) if split != "test" else []
            return [Sample(image, _cityscapes_mask(root, image)) for image in pictures]
        case VocData():
            listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
            names = listing.read_text().split() if listing.exists() and split != "test" else []
            return [Sample(root / f"JPEGImages/{n}.jpg", root / f"SegmentationClass/{n}.png") for n in names]
        case FolderData(pairs=pairs) if pairs:
            return _listed(root, root / pairs.format(split=split))
        case FolderData():
            images = root / config.images.format(split=split)
            masks = root / config.masks.format(split=split)
            found = sorted(path for path in images.glob("*") if path.suffix.lower() in SUFFIXES)
            return [Sample(image, masks / f"{image.stem}.png") for image in found]


def _listed(root: Path, listing: Path) -> list[Sample]:
    """Pairs from a text file, a line each."""
    if not listing.exists():
        return []
    samples = []
    for line in listing.read_text().splitlines():
        if parts := line.split():
            if len(parts) != 2:
                raise DataError(f"{listing}: '{line}' is not an image and a mask", hint="write two paths a line")
            samples.append(Sample(root / parts[0], root / parts[1]))
    return samples


def _cityscapes_mask(root: Path, image: Path) -> Path:
    name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
    return root / "gtFine" / image.parent.parent.name / image.parent.name / name


def _read_indices(path: Path) -> NDArray[Any]:
    """A mask's values; of a palette PNG the indices, which OpenCV would turn into colours."""
    try:
        with Image.open(path) as image:
            if image.mode not in _INDEX_MODES:
                raise DataError(
                    f"{path} is no index mask: its mode is {image.mode}",
                    hint="masks are PNGs of one channel or with a palette, whose values are class numbers",
                )
            return np.asarray(image).astype(np.uint16)
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path} cannot be read as a mask: {error}", hint="write it again as PNG") from None
