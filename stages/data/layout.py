"""Words for a data set that lies otherwise than its config says: what was looked for, and what is there."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from segpipe.errors import DataError
from segpipe.media.images import SUFFIXES
from stages.config.root import CamVidData, CityscapesData, CocoData, FolderData, PetData, VocData

FilesConfig = FolderData | CamVidData | CityscapesData | VocData | PetData | CocoData

_DEPTH, _VISITED, _NAMED = 3, 200, 6  # how far a message looks for images, and how many folders it names


def listing(config: FilesConfig, split: str) -> str:
    """The text file that lists a split, relative to the root; empty where folders decide."""
    match config:
        case CamVidData():
            return f"{split}.txt"
        case VocData():
            return f"ImageSets/Segmentation/{split}.txt"
        case PetData():
            return f"annotations/{'test' if split == 'test' else 'trainval'}.txt"
        case FolderData():
            return (config.pairs or config.names).format(split=split)
        case CocoData():
            return config.annotations.format(split=split)
        case CityscapesData():
            return ""


def empty_split(config: FilesConfig, root: Path, split: str) -> DataError:
    """Nothing was found where the images of a split should be."""
    file = listing(config, split)
    if file:
        state = "names nothing" if (root / file).is_file() else "is not there"
        wanted = f"{file} {state}"
    else:
        folder = config.images.format(split=split) if isinstance(config, FolderData) else f"leftImg8bit/{split}/*"
        wanted = f"no image in {folder}"
    return DataError(f"the {split} split in {root} is empty: {wanted}; {_found(root)}", hint=_hint(config))


def no_masks(config: FilesConfig, root: Path, split: str, count: int, example: Path) -> DataError:
    """Every image of a split lacks its mask: the place is wrong, not the files."""
    there = sorted(example.parent.glob("*"))[:1]
    holds = f"; that folder holds for example {there[0].name}" if there else f"; {_found(root)}"
    message = f"none of the {count} images of the {split} split has a mask: {example} does not exist"
    return DataError(message + holds, hint=_hint(config))


def _hint(config: FilesConfig) -> str:
    if isinstance(config, FolderData):
        return "set [data] root, images and masks to where they lie ({split} stands for train, val and test)"
    return f"set [data] root to the folder that holds the {config.kind} set as it was published"


def _found(root: Path) -> str:
    folders = list(islice(_folders_with_images(root), _NAMED + 1))
    if not folders:
        return f"there is no image in it down to {_DEPTH} folders deep"
    return "images are in " + ", ".join(folders[:_NAMED]) + (", ..." if len(folders) > _NAMED else "")


def _folders_with_images(root: Path) -> Iterator[str]:
    """Relative to the root; not too deep, nor in too many folders: this is for a message."""
    for folder, below, files in islice(os.walk(root), _VISITED):
        place = Path(folder).relative_to(root)
        below[:] = sorted(below) if len(place.parts) < _DEPTH else []
        if any(Path(file).suffix.lower() in SUFFIXES for file in files):
            yield place.as_posix()
