"""Data sets in files: finds the pairs of image and mask of each kind, and gives out frames with class numbers."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import DataError
from segpipe.id_maps import NO_CLASS
from segpipe.media.images import SUFFIXES
from segpipe.rundir.storage import (
    explained_reads,
    read_bounded,
    read_text_file,
    sha256_of,
    sha256_of_bytes,
    write_atomically,
)
from stages.config.root import (
    CamVidData,
    CityscapesData,
    CocoData,
    FolderData,
    InputConfig,
    PetData,
    ShapesData,
    VocData,
)
from stages.data import known
from stages.data.coco import CocoImage, CocoSet, read_coco
from stages.data.faults import Fault
from stages.data.layout import FilesConfig, empty_split, listing, no_masks
from stages.data.reading import ColourCode, read_frame, read_labels

SPLITS = ("train", "val", "test")
_LIST_LIMIT_BYTES = 1 << 30  # of what has a line for each file of a set


@dataclass(frozen=True)
class Sample:
    """One image and its mask, where there are masks."""

    image: Path
    mask: Path | None
    """Of COCO the file that tells of every image of the split."""
    objects: Path | None = None
    """Of VOC's things: which pixel belongs to which."""
    listed: CocoImage | None = None
    """What COCO's file says of the image."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What must be there."""
        return tuple(path for path in (self.image, self.mask, self.objects) if path is not None)


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
        """Frame and labels; refused when they are not of one size. Without masks every label is the ignore index."""
        sample = self._samples[index]
        if sample.mask is None:
            frame = read_frame(sample.image, self._frames)
            return frame, np.full(frame.shape[:2], self._labels.ignore_index, np.uint16)
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
    if not isinstance(config, FolderData | CocoData):
        return known.LABEL_SETS[config.kind]
    palette = config.palette or known.distinct_colours(len(config.classes))
    if len(palette) != len(config.classes):
        raise DataError(
            f"[data] palette has {len(palette)} colours for {len(config.classes)} classes",
            hint="give one colour a class, or leave the palette out",
        )
    return known.LabelSet(config.classes, palette, getattr(config, "ignore_index", NO_CLASS))


def find_samples(
    config: FilesConfig, base: Path, split: str, complete: bool = True, things: bool = False
) -> list[Sample]:
    """The pairs of a split, in a fixed order. A set without test labels uses its val split for test. `things`: labels
    are those that tell things one by one."""
    root = _root(config, base)
    samples = _pairs(config, root, split, things)
    if not samples and split == "test":
        return find_samples(config, base, "val", complete, things)
    if not samples:
        raise empty_split(config, root, split)
    absent = [path for sample in samples for path in sample.files if not path.is_file()]
    if absent and complete:
        _refuse_absent_masks(config, root, split, samples)
        raise DataError(
            f"{len(absent)} files of the {split} split are missing, first {absent[0]}",
            hint=f"complete the set; `segpipe data check {base}` names them",
        )
    return [sample for sample in samples if all(path.is_file() for path in sample.files)]


def val_serves_as_test(config: FilesConfig, base: Path) -> bool:
    """Whether the set has no test split of its own."""
    return not _pairs(config, _root(config, base), "test")


def has_labels(config: FilesConfig | ShapesData) -> bool:
    """Whether frames come with masks."""
    return not isinstance(config, FolderData) or config.has_masks


def require_labels(config: FilesConfig | ShapesData, what: str) -> None:
    """DataError where there is nothing that `what` could be held to."""
    if not has_labels(config):
        raise DataError(f"{what} needs masks, and [data] masks is empty", hint="set it to where the masks lie")


def lacks_train(config: FilesConfig, base: Path) -> bool:
    """Whether there is a val split and no train split: where nothing trains, none is needed."""
    root = _root(config, base)
    return not _pairs(config, root, "train") and bool(_pairs(config, root, "val"))


def unpaired(config: FilesConfig, base: Path, split: str, things: bool = False) -> list[Fault]:
    """What each file without a partner lacks; raises where every image lacks its mask."""
    root = _root(config, base)
    samples = _pairs(config, root, split, things)
    _refuse_absent_masks(config, root, split, samples)
    absent = [path for sample in samples for path in sample.files if not path.is_file()]
    faults = [Fault(f"{path} is missing", "complete the set, or take its partner out", path.name) for path in absent]
    if isinstance(config, FolderData) and config.has_masks and not listing(config, split):
        masks = root / config.masks.format(split=split)
        wanted = {sample.mask for sample in samples}
        orphans = [mask for mask in sorted(masks.glob("*.png")) if samples and mask not in wanted]
        faults += [Fault(f"{mask} has no image", "add the image, or remove the mask", mask.name) for mask in orphans]
    return faults


def _refuse_absent_masks(config: FilesConfig, root: Path, split: str, samples: list[Sample]) -> None:
    """Raise when images are there and no mask is."""
    masks = [sample.mask for sample in samples if sample.image.is_file() and sample.mask is not None]
    if masks and not any(sample.mask is not None and sample.mask.is_file() for sample in samples):
        raise no_masks(config, root, split, len(masks), masks[0])


def fingerprint(config: FilesConfig, base: Path, cache: Path | None, things: bool = False) -> str:
    """Hash of the file list with contents; with a cache, contents are hashed again only when size or time changed.

    A train split that is not there counts as empty: whoever trains will miss it.
    """
    root = base / config.root
    remembered = _remembered(cache)
    lines: list[str] = []
    seen: dict[str, list[Any]] = {}
    for split in SPLITS[1:] if lacks_train(config, base) else SPLITS:
        for sample in find_samples(config, base, split, things=things):
            for path in sample.files:
                name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
                stat = path.stat()
                entry = seen.get(name) or remembered.get(name, [0, 0, ""])
                if entry[:2] != [stat.st_size, stat.st_mtime_ns]:
                    with explained_reads(path):
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
        content = json.loads(read_bounded(cache, _LIST_LIMIT_BYTES))
    except (ValueError, RecursionError):
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 3}


def _root(config: FilesConfig, base: Path) -> Path:
    root = base / config.root
    with explained_reads(root):
        found = root.is_dir()
        state = "is a file" if root.is_file() else "does not exist"
    if not found:
        raise DataError(f"the data folder {root} {state}", hint="set [data] root; it is relative to segpipe.toml")
    return root


def _pairs(config: FilesConfig, root: Path, split: str, things: bool = False) -> list[Sample]:
    match config:
        case CamVidData() | FolderData() if isinstance(config, CamVidData) or config.pairs:
            return _listed(root, root / listing(config, split))
        case FolderData():
            return _paired_by_name(config, root, split)
        case CityscapesData():
            pictures = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")) if split != "test" else []
            return [Sample(image, _cityscapes_mask(root, image, things)) for image in pictures]
        case VocData():
            names = _names(root / listing(config, split)) if split != "test" else []
            return [_of_voc(root, name, things) for name in names]
        case CocoData():
            return _of_coco(config, root, split)
        case PetData():
            names = _pet_names(root / listing(config, split), split)
            return [Sample(root / f"images/{n}.jpg", root / f"annotations/trimaps/{n}.png") for n in names]
    raise AssertionError(config.kind)


def _of_voc(root: Path, name: str, things: bool) -> Sample:
    objects = root / f"SegmentationObject/{name}.png" if things else None
    return Sample(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", objects)


def _paired_by_name(config: FolderData, root: Path, split: str) -> list[Sample]:
    images, masks = root / config.images.format(split=split), root / config.masks.format(split=split)
    found = {path.stem: path for path in sorted(images.glob("*")) if path.suffix.lower() in SUFFIXES}
    if config.names:
        names = _names(root / listing(config, split))
        found = {name: found.get(name, images / f"{name}.png") for name in names}
    return [Sample(image, masks / f"{name}.png" if config.masks else None) for name, image in found.items()]


def _listed(root: Path, file: Path) -> list[Sample]:
    """Pairs from a text file, a line each; a tab lets names hold spaces."""
    samples = []
    for line in _names(file):
        parts = line.split("\t") if "\t" in line else line.split()
        if len(parts) != 2:
            raise DataError(
                f"{file}: '{line}' is not an image and a mask",
                hint="write two paths a line, with a tab between them where a name holds spaces",
            )
        samples.append(Sample(root / parts[0], root / parts[1]))
    return samples


def _names(file: Path) -> list[str]:
    """The lines of a text file; none where it does not exist."""
    try:
        lines = read_text_file(file, DataError, _LIST_LIMIT_BYTES).splitlines()
    except FileNotFoundError:
        return []
    return [line.strip() for line in lines if line.strip()]


def _pet_names(file: Path, split: str) -> list[str]:
    """The set has no val split: a tenth of trainval, chosen by the names' hashes."""
    names = [line.split()[0] for line in _names(file) if not line.startswith("#")]
    if split == "test":
        return names
    return [name for name in names if (hashlib.sha256(name.encode()).digest()[0] % 10 == 0) == (split == "val")]


def _of_coco(config: CocoData, root: Path, split: str) -> list[Sample]:
    """The images that the split's file lists; none where there is no such file."""
    file, folder = root / listing(config, split), root / config.images.format(split=split)
    if not file.is_file():
        return []
    listed = known_coco(file, config.classes).file.images
    for image in listed:
        if Path(image.file_name).is_absolute() or ".." in Path(image.file_name).parts:
            raise DataError(
                f"{file} names the image {image.file_name!r:.80}, which is not below {folder}",
                hint="write file names relative to [data] images",
            )
    return [Sample(folder / image.file_name, file, listed=image) for image in listed]


def known_coco(file: Path, classes: tuple[str, ...]) -> CocoSet:
    """A file that is parsed once, until it changes."""
    with explained_reads(file):
        stat = file.stat()
    return _parsed_coco(file, classes, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=len(SPLITS))
def _parsed_coco(file: Path, classes: tuple[str, ...], _size: int, _changed: int) -> CocoSet:
    return read_coco(file, classes)


def _cityscapes_mask(root: Path, image: Path, things: bool) -> Path:
    name = image.name.replace("_leftImg8bit.png", f"_gtFine_{'instance' if things else 'label'}Ids.png")
    return root / "gtFine" / image.parent.parent.name / image.parent.name / name


def _mask_palette(config: FilesConfig, labels: known.LabelSet) -> ColourCode | None:
    if not isinstance(config, FolderData) or config.masks_are != "colours":
        return None
    values = {colour: number for number, colour in enumerate(labels.palette)}
    return ColourCode(values | dict.fromkeys(config.ignore_colours, config.ignore_index))
