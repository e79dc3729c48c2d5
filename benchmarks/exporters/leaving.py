"""What an exporter's script is given and leaves: frames; model.onnx, its own masks, versions. Needs numpy alone."""

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = Callable[[NDArray[np.uint8]], NDArray[Any]]
"""A frame (HxWx3, RGB) to a mask, as the exporter's documentation says."""
Size = tuple[int, int]
SIZE: Size = (352, 480)
"""Height and width of most of the networks: CamVid's frames without their first and last four rows."""


@dataclass(frozen=True)
class Given:
    """Frames of any size, and where the result goes."""

    frames: NDArray[np.uint8]
    out: Path

    def fitting(self, size: Size = SIZE) -> NDArray[np.uint8]:
        """The middle of each frame, of the network's size."""
        return middle(self.frames, size)


@dataclass(frozen=True)
class Left:
    """What the exporter says of its frames. `whole` is None where its own code makes no mask of the frame's size."""

    fitting: Masks
    whole: Masks | None
    packages: Sequence[str]
    contract: dict[str, Any] = field(default_factory=dict)
    """What no file tells."""
    size: Size = SIZE


def middle(frames: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Of each frame."""
    top, left = ((of - to) // 2 for of, to in zip(frames.shape[1:3], size, strict=True))
    return np.ascontiguousarray(frames[:, top : top + size[0], left : left + size[1]])


def given() -> Given:
    """By the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("frames", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return Given(np.load(options.frames), options.out)


def leave(it: Given, left: Left) -> None:
    """Write masks and versions beside model.onnx."""
    masks = {"fitting": np.stack([left.fitting(frame) for frame in it.fitting(left.size)])}
    if left.whole is not None:
        masks["whole"] = np.stack([left.whole(frame) for frame in it.frames])
    bytewise: dict[str, Any] = {name: found.astype(np.uint8) for name, found in masks.items()}
    np.savez_compressed(it.out / "masks.npz", **bytewise)
    versions = {name: _version(name) for name in left.packages} | {"Python": platform.python_version()}
    (it.out / "told.json").write_text(
        json.dumps({"versions": versions, "size": left.size, "contract": left.contract}, indent=1)
    )


def _version(name: str) -> str:
    """ONNX Runtime for GPUs is the same package under another name."""
    try:
        return version(name)
    except PackageNotFoundError:
        return version(f"{name}-gpu")
