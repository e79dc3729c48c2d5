"""A folder of frames and masks, and its config."""

from pathlib import Path

import numpy as np

from segpipe.media.images import write_image

TOML = """
[data]
kind = "folder"
root = "data"
classes = ["a", "b"]

[input]
height = 32
width = 32

[model]
options = { width = 4 }

[train]
epochs = 1
workers = 0
"""


SOUND, FAULTS = 3, 30


def write_pair(root: Path, split: str, name: str, label: int = 1) -> None:
    """A frame whose right half has this label."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = label
    write_image(root / f"{split}/images/{name}.png", np.full((8, 8, 3), 90, np.uint8))
    write_image(root / f"{split}/masks/{name}.png", mask)


def write_binary_masks(root: Path, splits: tuple[str, ...]) -> None:
    """Masks of 0 and 255, as most drawing programs write them: 25 % are 255."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :2] = 255
    for path in (path for split in splits for path in (root / split / "masks").iterdir()):
        write_image(path, mask)
