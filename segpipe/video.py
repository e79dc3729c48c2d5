"""Videos and raw streams of frames: read, segmented with `stream`, written."""

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract import Contract
from segpipe.errors import InputError
from segpipe.images import write_image
from segpipe.runtime.segmenter import Segmenter
from segpipe.storage import explained_refusals

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
_DEFAULT_FPS = 25.0  # for files that do not tell
_CODEC = "mp4v"  # MPEG-4 part 2: the one that every OpenCV wheel can write


def count_frames(path: Path) -> int:
    """How many frames the file says it has; 0 when it does not say, or is no video."""
    capture = cv2.VideoCapture(str(path))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    return max(count, 0)


def predict_video(
    segmenter: Segmenter, path: Path, masks: Path, side_by_side: Path, tick: Callable[[int], None]
) -> int:
    """Index masks to a folder, frame and overlay side by side to a video; returns the number of frames.

    The video gets its name when it is whole.
    """
    contract = segmenter.contract
    if (contract.channels, contract.dtype) != (3, "uint8"):
        raise InputError(
            f"{path} has 3 channels of uint8, the network takes {contract.channels} of {contract.dtype}",
            hint="convert it to images that the contract describes",
        )
    waiting: deque[NDArray[Any]] = deque()
    partial = side_by_side.with_name(f".{side_by_side.stem}.partial{side_by_side.suffix}")
    with explained_refusals(str(side_by_side)):
        side_by_side.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with _Capture(path) as capture, _Writer(partial, capture.fps) as writer:
        for mask in segmenter.stream(_kept(capture.frames(), waiting)):
            frame = waiting.popleft()
            write_image(masks / f"{count:06d}.png", mask)
            writer.write(np.concatenate([frame, draw.overlay(frame, mask, segmenter.palette)], 1))
            count += 1
            tick(1)
    if count == 0:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path} holds no frame that OpenCV can read", hint="convert it to MP4")
    partial.replace(side_by_side)
    return count


def raw_frames(source: BinaryIO, contract: Contract, size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Packed HxWxC frames of the contract's type, one after the other."""
    shape, dtype = (*size, contract.channels), np.dtype(contract.dtype)
    wanted = int(np.prod(shape)) * dtype.itemsize
    number = 0
    while data := source.read(wanted):
        if len(data) != wanted:
            raise InputError(
                f"the stream ended inside frame {number}: {len(data)} of {wanted} bytes",
                hint=f"send {dtype} frames of {'x'.join(map(str, shape))}, or give another --size",
            )
        yield np.frombuffer(data, dtype).reshape(shape)
        number += 1


def predict_raw(
    segmenter: Segmenter, source: BinaryIO, target: BinaryIO, size: tuple[int, int], tick: Callable[[int], None]
) -> int:
    """Raw frames to raw masks of the contract's mask type, flushed one by one; returns their number."""
    count = 0
    for mask in segmenter.stream(raw_frames(source, segmenter.contract, size)):
        target.write(mask.tobytes())
        target.flush()
        count += 1
        tick(1)
    return count


def _kept(frames: Iterator[NDArray[Any]], waiting: deque[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Frames on their way to the network are needed again for the overlay."""
    for frame in frames:
        waiting.append(frame)
        yield frame


class _Capture:
    """A video file being read."""

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise InputError(f"{path} is not a video that OpenCV can read", hint="convert it to MP4")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_FPS

    def frames(self) -> Iterator[NDArray[Any]]:
        """RGB frames."""
        while True:
            read, frame = self._capture.read()
            if not read:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def __enter__(self) -> "_Capture":
        return self

    def __exit__(self, *exception: object) -> None:
        self._capture.release()


class _Writer:
    """A video file being written; its size is that of the first picture."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: NDArray[Any]) -> None:
        """Append an RGB picture."""
        if self._writer is None:
            height, width = picture.shape[:2]
            codec = cv2.VideoWriter.fourcc(*_CODEC)
            self._writer = cv2.VideoWriter(str(self._path), codec, self._fps, (width, height))
            if not self._writer.isOpened():
                raise InputError(f"OpenCV cannot write {self._path}", hint="check the folder and what OpenCV can write")
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.release()
