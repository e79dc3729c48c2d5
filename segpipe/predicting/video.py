"""Videos: segmented frame by frame, published when they are whole."""

import errno
import logging
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError, StorageError
from segpipe.instances import Instances, coco_document
from segpipe.media.container import least_frames, require_whole
from segpipe.media.files import open_regular
from segpipe.media.images import encode_png, require_pixels, write_png
from segpipe.media.video_file import Writer
from segpipe.predicting.done import Origin, Source, recorded_outputs, seal, seal_json, write_json, written_in
from segpipe.predicting.image import mask_of, shown
from segpipe.predicting.job import (
    COLOURS,
    MASKS,
    OVERLAYS,
    THINGS,
    VIDEOS,
    Advance,
    AnySegmenter,
    Job,
    Predicted,
    picture_name,
)
from segpipe.predicting.ownership import remove_made_of, require_ours
from segpipe.predicting.publishing import aside, publish, sha256_of_output

_log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"})
DEFAULT_FPS = 25.0
"""Of what does not tell."""


def count_frames(path: Path) -> int:
    """How many frames the file says it has; 0 when it does not say, or is no video."""
    try:
        with open_regular(path) as file, _Capture(path, file) as capture:
            return capture.count
    except InputError:
        return 0


def predict_video(segmenter: AnySegmenter, path: Path, job: Job, tick: Advance) -> Predicted:
    """Index masks to a folder; where asked for, pictures in colours to another, and frame beside overlay to a video.
    Of things COCO's JSON of each frame to a folder of its own.

    All is written aside, and gets its name when the video was read to its end.
    """
    require_contract(str(path), segmenter)
    targets = _targets(job, path)
    predicted = Predicted(path, targets[MASKS], targets[VIDEOS])
    wanted = {folder: targets[folder] for folder in _wanted(segmenter, job)}
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        require_whole(path, file)
        source = Source.of_file(path, file)
        origin = job.origin(segmenter, source, VIDEOS)
        if not job.force and _is_done(wanted, origin):
            tick(count_frames(path), skipped=True)
            return replace(predicted, frames=0, skipped=True)
        with aside(wanted) as parts:
            for target in wanted.values():
                require_ours(target, job.out)
            origins = {folder: job.origin(segmenter, source, folder) for folder in (MASKS, COLOURS, THINGS)}
            frames = _segment(segmenter, _Capture(path, file), job, _Parts(parts, targets, origins), tick)
            _require_written(parts, targets, frames)
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise InputError(f"{path} was changed while it was read", hint="run the same command again")
            for stale in publish(parts, targets, origin, job.out):
                _log.info("%s: removed, it was made of another %s", stale, path.name)
    return replace(predicted, frames=frames)


def remove_video(path: Path, job: Job) -> bool:
    """Delete what was made of a video before; whether there was something. What others put there stays."""
    removed = [remove_made_of(target, path, job.out) for target in _targets(job, path).values()]
    return any(removed)


def require_contract(name: str, segmenter: AnySegmenter) -> None:
    """Refuse a network whose frames no video gives."""
    contract = segmenter.contract
    if (contract.channels, contract.dtype) != (3, "uint8"):
        raise InputError(
            f"{name} has 3 channels of uint8, the network takes {contract.channels} of {contract.dtype}",
            hint="convert it to images that the contract describes",
        )


def _wanted(segmenter: AnySegmenter, job: Job) -> list[str]:
    """The folders that a video writes to; the masks' last, with whose record it is done."""
    return [VIDEOS if folder == OVERLAYS else folder for folder in job.written_for(segmenter)]


def _targets(job: Job, path: Path) -> dict[str, Path]:
    """A video, and folders of pictures in colours, of things and of masks, which holds the record of all."""
    video = job.target(VIDEOS, path)
    return {
        VIDEOS: video.with_name(f"{video.name}.mp4"),
        COLOURS: job.target(COLOURS, path),
        THINGS: job.target(THINGS, path),
        MASKS: job.target(MASKS, path),
    }


def _is_done(wanted: dict[str, Path], origin: Origin) -> bool:
    """Whether all that is wanted lies there as the record of this origin says."""
    recorded = recorded_outputs(wanted[MASKS], origin)
    return all(folder in recorded and recorded[folder] == sha256_of_output(target) for folder, target in wanted.items())


@dataclass(frozen=True)
class _Parts:
    """Where the outputs of one video are written until they are whole."""

    places: Mapping[str, Path]
    names: Mapping[str, Path]
    """What they are called then."""
    origins: Mapping[str, Origin]
    """What the pictures of a folder are made from."""

    def write(self, folder: str, number: int, pixels: NDArray[Any]) -> None:
        """One frame's picture, with its record."""
        file = self.places[folder] / picture_name(number)
        write_png(file, seal(encode_png(file, pixels), self.origins[folder]))

    def write_things(self, number: int, found: Instances) -> None:
        """What was found in one frame, which is called as its mask is."""
        name = picture_name(number)
        file = (self.places[THINGS] / name).with_suffix(".json")
        write_json(file, seal_json(coco_document(found, name), self.origins[THINGS]))


def _segment(segmenter: AnySegmenter, capture: "_Capture", job: Job, parts: _Parts, tick: Advance) -> int:
    waiting: deque[NDArray[Any]] = deque()
    count = 0
    with capture, Writer(parts.places.get(VIDEOS, Path()), capture.fps, parts.names[VIDEOS]) as writer:
        require_pixels(f"a frame of {capture.path}", *capture.size, job.max_pixels)
        for answer in job.masks(segmenter, _kept(capture.frames(), waiting), capture.size):
            frame, result = waiting.popleft(), shown(segmenter, answer)
            parts.write(MASKS, count, mask_of(answer))
            if isinstance(result, Instances):
                parts.write_things(count, result)
            if job.colour:
                parts.write(COLOURS, count, result.colour())
            if job.overlay:
                writer.write(np.concatenate([frame, result.overlay(frame)], 1))
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


def _require_written(parts: Mapping[str, Path], targets: Mapping[str, Path], frames: int) -> None:
    for folder, part in parts.items():
        require_written(targets[folder], part, frames)


def require_written(target: Path, part: Path, frames: int) -> None:
    """Look at what was written, pictures or a video: OpenCV says nothing of a disk that refused a video's bytes."""
    written = len(written_in(part)) if part.is_dir() else _whole_frames(part)
    if written != frames:
        cause = OSError(errno.EIO, f"{written} of {frames} frames were written")
        raise StorageError(
            f"cannot write {target}: of {frames} frames {written} can be read again",
            hint="free some space or raise the file size limit (ulimit -f), and run the same command again",
        ) from cause


def _whole_frames(video: Path) -> int:
    """Frames of a video that is all there; 0 where it is not."""
    try:
        with open_regular(video) as file:
            require_whole(video, file)
    except InputError:
        return 0
    return count_frames(video)


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
        self.fps = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_FPS
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
