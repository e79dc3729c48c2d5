"""Videos: segmented frame by frame, published when they are whole."""

import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.errors import InputError
from segpipe.media.container import least_frames, require_whole
from segpipe.media.files import open_regular
from segpipe.media.images import require_pixels, write_image
from segpipe.predicting.done import RECORD, Origin, Source, pictures_sha256, recorded_outputs, write_record
from segpipe.predicting.job import COLOURS, MASKS, VIDEOS, Job, Predicted
from segpipe.rundir.storage import explained_refusals, sha256_of, sha256_of_bytes, sync_directory, sync_file
from segpipe.runtime.segmenter import Segmenter

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
_DEFAULT_FPS = 25.0  # for files that do not tell
_CODEC = "mp4v"  # MPEG-4 part 2: the one that every OpenCV wheel can write
_OURS = re.compile(rf"\d{{6,}}\.png|{re.escape(RECORD)}")


def count_frames(path: Path) -> int:
    """How many frames the file says it has; 0 when it does not say, or is no video."""
    try:
        with open_regular(path) as file, _Capture(path, file) as capture:
            return capture.count
    except InputError:
        return 0


def predict_video(segmenter: Segmenter, path: Path, job: Job, tick: Callable[[int], None]) -> Predicted:
    """Index masks to a folder; where asked for, pictures in colours to another, and frame beside overlay to a video.

    All is written aside, and gets its name when the video was read to its end.
    """
    _require_contract(path, segmenter)
    targets = _targets(job, path)
    predicted = Predicted(path, targets[MASKS], targets[VIDEOS])
    wanted = {folder: targets[folder] for folder in (*[VIDEOS] * job.overlay, *[COLOURS] * job.colour, MASKS)}
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        require_whole(path, file)
        origin = job.origin(segmenter, Source.of_file(path, file), VIDEOS)
        if not job.force and _is_done(wanted, origin):
            tick(count_frames(path))
            return replace(predicted, frames=0, skipped=True)
        for target in wanted.values():
            _require_ours(target)
        with _aside(wanted) as parts:
            frames = _segment(segmenter, _Capture(path, file), job, parts, tick)
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise InputError(f"{path} was changed while it was read", hint="run the same command again")
            _publish(parts, wanted, origin)
    return replace(predicted, frames=frames)


def remove_video(path: Path, job: Job) -> bool:
    """Delete what was made of a video before; whether there was something. What others put there stays."""
    there = []
    for target in _targets(job, path).values():
        with suppress(InputError, OSError):
            _require_ours(target)
            target.lstat()
            there.append(target)
    with explained_refusals(str(job.out)):
        for target in there:
            _remove(target)
    return bool(there)


def _require_contract(path: Path, segmenter: Segmenter) -> None:
    contract = segmenter.contract
    if (contract.channels, contract.dtype) != (3, "uint8"):
        raise InputError(
            f"{path} has 3 channels of uint8, the network takes {contract.channels} of {contract.dtype}",
            hint="convert it to images that the contract describes",
        )


def _targets(job: Job, path: Path) -> dict[str, Path]:
    """A folder of masks, one of pictures in colours, and a video; the masks' folder holds the record of all."""
    video = job.target(VIDEOS, path)
    return {
        VIDEOS: video.with_name(f"{video.name}.mp4"),
        COLOURS: job.target(COLOURS, path),
        MASKS: job.target(MASKS, path),
    }


def _is_done(wanted: dict[str, Path], origin: Origin) -> bool:
    """Whether all that is wanted lies there as the record of this origin says."""
    recorded = recorded_outputs(wanted[MASKS], origin)
    return all(folder in recorded and recorded[folder] == _sha256(target) for folder, target in wanted.items())


def _sha256(target: Path) -> str:
    if target.is_dir():
        return pictures_sha256(target)
    return sha256_of(target) if target.is_file() else ""


def _require_ours(target: Path) -> None:
    """Refuse to replace a folder that holds what was not written here, or is a link to another."""
    if target.is_symlink():
        raise InputError(f"{target} is a link, and would be replaced", hint="move it")
    foreign = [file.name for file in target.iterdir() if not _OURS.fullmatch(file.name)] if target.is_dir() else []
    if foreign:
        raise InputError(f"{target} holds {foreign[0]}, which `predict` did not write", hint="move it elsewhere")


@contextmanager
def _aside(wanted: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Hidden places beside the targets, empty; what was not published from them goes."""
    parts = {}
    for folder, target in wanted.items():
        short = sha256_of_bytes(os.fsencode(target.name))[:16]
        parts[folder] = target.with_name(f".{short}.partial{'.mp4' if folder == VIDEOS else ''}")
    try:
        for folder, part in parts.items():
            with explained_refusals(str(wanted[folder])):
                _remove(part)
                (part.parent if folder == VIDEOS else part).mkdir(parents=True, exist_ok=True)
        yield parts
    finally:
        for part in parts.values():
            _remove(part)


def _segment(
    segmenter: Segmenter, capture: "_Capture", job: Job, parts: dict[str, Path], tick: Callable[[int], None]
) -> int:
    waiting: deque[NDArray[Any]] = deque()
    count = 0
    with capture, _Writer(parts.get(VIDEOS, Path()), capture.fps) as writer:
        require_pixels(f"a frame of {capture.path}", *capture.size, job.max_pixels)
        for mask in job.masks(segmenter, _kept(capture.frames(), waiting), capture.size):
            frame, name = waiting.popleft(), f"{count:06d}.png"
            write_image(parts[MASKS] / name, mask)
            if job.colour:
                write_image(parts[COLOURS] / name, draw.colourise(mask, segmenter.palette))
            if job.overlay:
                writer.write(np.concatenate([frame, draw.overlay(frame, mask, segmenter.palette)], 1))
            count += 1
            tick(1)
        if count == 0:
            raise InputError(f"{capture.path} holds no frame that OpenCV can read", hint="convert it to MP4")
        if count < capture.least_count:
            raise InputError(
                f"{capture.path} gave {count} frames, its container counts {capture.count}",
                hint="it is damaged: copy it again; to use what there is, convert it with ffmpeg",
            )
    return count


def _publish(parts: dict[str, Path], wanted: dict[str, Path], origin: Origin) -> None:
    """Give everything its name, the masks with the record last."""
    with explained_refusals(str(wanted[MASKS])):
        if VIDEOS in parts:
            sync_file(parts[VIDEOS])
        write_record(parts[MASKS], origin, {folder: _sha256(part) for folder, part in parts.items()})
        for folder, part in parts.items():
            _remove(wanted[folder])
            part.rename(wanted[folder])
            sync_directory(part.parent)


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _kept(frames: Iterator[NDArray[Any]], waiting: deque[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Frames on their way to the network are needed again for the overlay."""
    for frame in frames:
        waiting.append(frame)
        yield frame


class _Capture:
    """A video file being read. OpenCV gets no name, which may be none that it takes, but a descriptor's."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(f"/dev/fd/{file.fileno()}")
        if not self._capture.isOpened():
            raise InputError(f"{path} is not a video that OpenCV can read", hint="convert it to MP4")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or _DEFAULT_FPS
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        """Frames that the file says it has; 0 when it does not say."""
        self.least_count = least_frames(file, self.count)
        """Frames that come when nothing is damaged."""
        sides = (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        self.size: tuple[int, int] = (int(self._capture.get(sides[0])), int(self._capture.get(sides[1])))

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
    """A video file being written, once there is a picture, whose size it takes."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def write(self, picture: NDArray[Any]) -> None:
        """Append an RGB picture."""
        if self._writer is None:
            self._writer = self._opened(picture.shape[1], picture.shape[0])
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _opened(self, width: int, height: int) -> cv2.VideoWriter:
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            name = f"/dev/fd/{folder}/{self._path.name}"
            writer = cv2.VideoWriter(name, cv2.VideoWriter.fourcc(*_CODEC), self._fps, (width, height))
        finally:
            os.close(folder)
        if not writer.isOpened():
            raise InputError(f"OpenCV cannot write {self._path}", hint="check the folder and what OpenCV can write")
        return writer

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.release()
