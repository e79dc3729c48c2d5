"""What tests of `segpipe predict` share: a way to call it as a process, images and videos."""

import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import testing
from segpipe.media.images import write_image
from tests.children import PATIENCE_S, SEGPIPE

Ended = subprocess.CompletedProcess[bytes]


def segpipe(*arguments: object, data: bytes = b"", env: dict[str, str] | None = None) -> Ended:
    """The command in a process of its own, ended when it hangs."""
    command = [*SEGPIPE, *(str(text) for text in arguments)]
    environment = os.environ | (env or {})
    return subprocess.run(command, input=data, capture_output=True, check=False, timeout=PATIENCE_S, env=environment)


def make_images(folder: Path, count: int) -> list[Path]:
    """PNGs of different sizes."""
    paths = [folder / f"image{n}.png" for n in range(count)]
    for n, path in enumerate(paths):
        write_image(path, testing.make_frame(40 + n, 60, n)[0])
    return paths


def make_video(path: Path, frames: int, codec: str = "mp4v") -> list[NDArray[np.uint8]]:
    """A video of 96x64 at 10 frames a second; returns its frames before compression."""
    pictures = [testing.make_frame(64, 96, n)[0] for n in range(frames)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (96, 64))
    for picture in pictures:
        writer.write(picture[:, :, ::-1])
    writer.release()
    return pictures


def names_below(folder: Path) -> list[str]:
    """All files, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def lines(ended: Ended) -> Any:
    """What was said on stderr, without the progress bar."""
    return [
        line
        for line in ended.stderr.decode(errors="replace").splitlines()
        if "frames/s" not in line and "━" not in line
    ]
