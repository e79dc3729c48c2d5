"""Data sets in files: finds the pairs of image and mask of each kind, and gives out frames with class numbers."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe.errors import DataError
from segpipe.images import SUFFIXES
from segpipe.storage import sha256_of, sha256_of_bytes, write_atomically
from stages.config import CamVidData, CityscapesData, FolderData, InputConfig, PetData, VocData
from stages.data import known
from stages.data.reading import Palette, read_frame, read_labels

FilesConfig = FolderData | CamVidData | CityscapesData | VocData | PetData
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image and its mask."""

    image: Path
    mask: Path


class FileSplit:
    """One split read from files. `frames` says what the contract takes."""

    def __init__(self, config: FilesConfig, samples: list[Sample], frames: InputConfig) -> None:
        self._samples, self._frames = samples, frames
        self._labels = label_set(config)
        self._table = self._labels.table(config.remap)
        self._palette = _mask_palette(config, self._labels)

    def __len__(self) -> int:
        return len(self._samples)

    def name(self, index: int) -> str:
        """A name for messages and files."""
        return self._samples[index].image.stem

    def sample(self, index: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Frame and labels; refused when they are not of one size."""
        sample = self._samples[index]
        frame, labels = read_frame(sample.image, self._frames), self._classes(sample.mask)
        if frame.shape[:2] != labels.shape:
            raise DataError(
                f"{sample.image} is {frame.shape[0]}x{frame.shape[1]}, its mask {sample.mask} is "
                f"{labels.shape[0]}x{labels.shape[1]}",
                hint="a mask has its image's height and width",
            )
        return frame, labels

    def _classes(self, path: Path) -> NDArray[Any]:
        """Class numbers, HxW, after remapping; refused when a value is no class."""
        raw = read_labels(path, self._palette)
        labels: NDArray[Any] = self._table[raw]
        foreign = (labels >= len(self._labels.classes)) & (labels != self._labels.ignore_index)
        if foreign.any():
            value = int(raw[foreign].flat[0])
            raise DataError(
                f"{path} holds label {value}; the config has {len(self._labels.classes)} classes "
                f"and ignore index {self._labels.ignore_index}",
                hint=f'add the class, or remap it: [data] remap = {{ "{value}" = {self._labels.ignore_index} }}',
            )
        return labels


def label_set(config: FilesConfig) -> known.LabelSet:
    """Classes, colours and label values of a kind of data."""
    if not isinstance(config, FolderData):
        return known.LABEL_SETS[config.kind]
    palette = config.palette or known.distinct_colours(len(config.classes))
    if len(palette) != len(config.classes):
        raise DataError(
            f"[data] palette has {len(palette)} colours for {len(config.classes)} classes",
            hint="give one colour a class, or leave the palette out",
        )
    return known.LabelSet(config.classes, palette, config.ignore_index)


def find_samples(config: FilesConfig, base: Path, split: str, complete: bool = True) -> list[Sample]:
    """The pairs of a split, in a fixed order. A set without test labels uses its val split for test."""
    root = _root(config, base)
    samples = _pairs(config, root, split)
    if not samples and split == "test":
        return find_samples(config, base, "val", complete)
    if not samples:
        raise DataError(f"the {split} split in {root} is empty", hint="check the names in [data]")
    absent = [path for sample in samples for path in (sample.image, sample.mask) if not path.is_file()]
    if absent and complete:
        raise DataError(
            f"{len(absent)} files of the {split} split are missing, first {absent[0]}",
            hint="complete the set; `segpipe data check` names them",
        )
    return [sample for sample in samples if sample.image.is_file() and sample.mask.is_file()]


def unpaired(config: FilesConfig, base: Path, split: str) -> list[str]:
    """What each file without a partner lacks."""
    root = _root(config, base)
    samples = _pairs(config, root, split)
    lines = [f"{path} is missing" for s in samples for path in (s.image, s.mask) if not path.is_file()]
    if isinstance(config, FolderData) and not config.pairs and not config.names:
        masks = root / config.masks.format(split=split)
        wanted = {sample.mask for sample in samples}
        lines += [f"{mask} has no image" for mask in sorted(masks.glob("*.png")) if samples and mask not in wanted]
    return lines


def fingerprint(config: FilesConfig, base: Path, cache: Path | None) -> str:
    """Hash of the file list with contents; with a cache, contents are hashed again only when size or time changed."""
    root = base / config.root
    remembered = _remembered(cache)
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
    if cache and seen != remembered:
        write_atomically(cache, json.dumps(seen).encode())
    return sha256_of_bytes("\n".join(lines).encode())


def _remembered(cache: Path | None) -> dict[str, list[Any]]:
    """Size, time and hash of each file; nothing when the cache is torn, so that all is hashed again."""
    if cache is None or not cache.exists():
        return {}
    try:
        content = json.loads(cache.read_bytes())
    except ValueError:
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 3}


def _root(config: FilesConfig, base: Path) -> Path:
    root = base / config.root
    if not root.is_dir():
        raise DataError(
            f"the data folder {root} does not exist", hint="set [data] root; it is relative to segpipe.toml"
        )
    return root


def _pairs(config: FilesConfig, root: Path, split: str) -> list[Sample]:
    match config:
        case CamVidData():
            return _listed(root, root / f"{split}.txt")
        case CityscapesData():
            pictures = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")) if split != "test" else []
            return [Sample(image, _cityscapes_mask(root, image)) for image in pictures]
        case VocData():
            names = _names(root / "ImageSets" / "Segmentation" / f"{split}.txt") if split != "test" else []
            return [Sample(root / f"JPEGImages/{n}.jpg", root / f"SegmentationClass/{n}.png") for n in names]
        case PetData():
            names = _pet_names(root, split)
            return [Sample(root / f"images/{n}.jpg", root / f"annotations/trimaps/{n}.png") for n in names]
        case FolderData(pairs=pairs) if pairs:
            return _listed(root, root / pairs.format(split=split))
        case FolderData():
            return _paired_by_name(config, root, split)


def _paired_by_name(config: FolderData, root: Path, split: str) -> list[Sample]:
    images, masks = root / config.images.format(split=split), root / config.masks.format(split=split)
    found = {path.stem: path for path in sorted(images.glob("*")) if path.suffix.lower() in SUFFIXES}
    if not config.names:
        return [Sample(image, masks / f"{name}.png") for name, image in found.items()]
    names = _names(root / config.names.format(split=split))
    return [Sample(found.get(name, images / f"{name}.png"), masks / f"{name}.png") for name in names]


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


def _names(listing: Path) -> list[str]:
    return [line.strip() for line in listing.read_text().splitlines() if line.strip()] if listing.exists() else []


def _pet_names(root: Path, split: str) -> list[str]:
    """The set has no val split: a tenth of trainval, chosen by the names' hashes."""
    listing = root / "annotations" / ("test.txt" if split == "test" else "trainval.txt")
    names = [line.split()[0] for line in _names(listing) if not line.startswith("#")]
    if split == "test":
        return names
    return [name for name in names if (hashlib.sha256(name.encode()).digest()[0] % 10 == 0) == (split == "val")]


def _cityscapes_mask(root: Path, image: Path) -> Path:
    name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
    return root / "gtFine" / image.parent.parent.name / image.parent.name / name


def _mask_palette(config: FilesConfig, labels: known.LabelSet) -> Palette | None:
    if not isinstance(config, FolderData) or config.masks_are != "colours":
        return None
    values = {colour: number for number, colour in enumerate(labels.palette)}
    return Palette(values | dict.fromkeys(config.ignore_colours, config.ignore_index))
