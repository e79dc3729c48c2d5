"""A video being written: H.264 where PyAV is installed, which browsers play, else what OpenCV's wheels write."""

import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError

_CODEC = "mp4v"  # MPEG-4 part 2: the one that every OpenCV wheel can write


class VideoFile(Protocol):
    """A file that is open for writing."""

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append an RGB picture."""

    def close(self) -> None:
        """No picture comes any more."""

    def abandon(self) -> None:
        """Close what nobody wants any more."""


def why_browsers_do_not_play() -> str:
    """What is missing for videos that browsers play; nothing where they do."""
    try:
        from segpipe.media.h264 import is_built_in
    except ImportError:
        return "PyAV is not installed: pip install 'segpipe[video]'"
    return "" if is_built_in() else "this PyAV was built without libx264: pip install --force-reinstall av"


class Writer:
    """A video file, opened with its first picture, whose size it takes. `name` is what it is to be called."""

    def __init__(self, path: Path, fps: float, name: Path) -> None:
        self._path, self._fps, self._name = path, fps, name
        self._file: VideoFile | None = None

    def write(self, picture: NDArray[np.uint8]) -> None:
        """Append an RGB picture."""
        if self._file is None:
            self._file = self._opened(picture.shape[0], picture.shape[1])
        self._file.write(picture)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        elif self._file is not None:
            self._file.abandon()

    def close(self) -> None:
        """No picture comes any more."""
        if self._file is not None:
            self._file.close()

    def _opened(self, height: int, width: int) -> VideoFile:
        if why_browsers_do_not_play():
            return _OpenCvFile(self._path, self._name, self._fps, (height, width))
        from segpipe.media.h264 import H264File

        return H264File(self._path, self._name, self._fps, (height, width))


class _OpenCvFile:
    """OpenCV gets no name, which may be none that it takes, but a descriptor's."""

    def __init__(self, path: Path, name: Path, fps: float, size: tuple[int, int]) -> None:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place = f"/dev/fd/{folder}/{path.name}"
            self._writer = cv2.VideoWriter(place, cv2.VideoWriter.fourcc(*_CODEC), fps, size[::-1])
        finally:
            os.close(folder)
        if not self._writer.isOpened():
            raise InputError(f"OpenCV cannot write {name}", hint="check the folder and what OpenCV can write")

    def write(self, picture: NDArray[Any]) -> None:
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()

    abandon = close
