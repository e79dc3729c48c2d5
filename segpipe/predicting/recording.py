"""What is written of a live source, frame by frame: whatever ends it, the files that are there are whole.

A recording cannot be made again: each has a name of its own, with the moment it began, and nothing is ever replaced.
"""

import csv
import itertools
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.media.address import Address
from segpipe.media.images import encode_png, write_png
from segpipe.media.video_file import Writer
from segpipe.predicting.done import RECORD, Source, seal, seal_video
from segpipe.predicting.job import COLOURS, MASKS, TIMES, VIDEOS, Job, picture_name
from segpipe.predicting.killed import hold, part_of
from segpipe.predicting.video import require_written
from segpipe.result import Result
from segpipe.rundir.storage import explained_refusals, write_atomically
from segpipe.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from segpipe.media.live import LiveFrame

_COLUMNS = ("frame", "time_s", "arrived_utc", "late_ms")


class Recording:
    """Masks, where asked for pictures in colours and a video of overlays, and a table of the frames' times."""

    def __init__(self, segmenter: Segmenter, address: Address, job: Job) -> None:
        self._segmenter, self._address, self._job = segmenter, address, job
        with explained_refusals(str(job.out)):
            self.masks = _new_folder(job.out, f"{address.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
            self.times = job.out / TIMES / f"{self.masks.name}.csv"
            self.times.parent.mkdir(exist_ok=True)
            self._table = self.times.open("x", encoding="utf-8", newline="", buffering=1)
            hold(self._table.fileno())
            self._table.write(",".join(_COLUMNS) + "\n")
        self.video = job.out / VIDEOS / f"{self.masks.name}.mp4"
        self._part = part_of(self.video)
        self._writer: Writer | None = None
        source = Source(address.shown, 0, "")
        self._origins = {folder: job.origin(segmenter, source, folder) for folder in (MASKS, COLOURS, VIDEOS)}
        self._size: tuple[int, ...] = ()
        self.frames = 0
        self.latest_ms = 0.0

    def write(self, frame: "LiveFrame", mask: NDArray[Any], fps: float) -> None:
        """Add a frame; one of another size than the first is refused."""
        result = Result(mask, self._segmenter.contract, self._segmenter.palette)
        self._picture(MASKS, mask)
        if self._job.colour:
            self._picture(COLOURS, result.colour())
        if self._job.overlay:
            self._opened_writer(fps).write(np.concatenate([frame.pixels, result.overlay(frame.pixels)], 1))
        late_ms = 1000 * (time.monotonic() - frame.arrived_s)
        stamp = "" if frame.time_s is None else f"{frame.time_s:.6f}"
        with explained_refusals(str(self.times)):
            csv.writer(self._table, lineterminator="\n").writerow(
                (self.frames, stamp, frame.arrived.isoformat(timespec="milliseconds"), f"{late_ms:.1f}")
            )
        self.latest_ms = max(self.latest_ms, late_ms)
        self.frames += 1

    def require_size(self, frame: "LiveFrame") -> None:
        """A stream that changes its size is another recording: one video has one."""
        size = frame.pixels.shape[:2]
        self._size = self._size or size
        if size != self._size:
            (old_height, old_width), (height, width) = self._size, size
            raise InputError(
                f"{self._address.shown} changed its size from {old_height}x{old_width} to {height}x{width} after "
                f"{self.frames} frames, which were kept",
                hint="give the same command again: it begins another recording",
            )

    def close(self, **counts: int) -> None:
        """Give the video its name and write the record; a recording without frames leaves nothing."""
        with explained_refusals(str(self.masks)), self._table:  # closed last: who holds it is alive
            if not self.frames:
                self.times.unlink()
                self.masks.rmdir()
                return
            if self._writer is not None:
                self._writer.close()
                require_written(self.video, self._part, self.frames)
                seal_video(self._part, self._origins[VIDEOS])
                self._part.rename(self.video)
            record = self._origins[MASKS].as_dict() | {"live": {"frames": self.frames, **counts}}
            write_atomically(self.masks / RECORD, json.dumps(record, indent=2, sort_keys=True).encode("ascii"))

    def _picture(self, folder: str, pixels: NDArray[Any]) -> None:
        file = self._job.out / folder / self.masks.name / picture_name(self.frames)
        write_png(file, seal(encode_png(file, pixels), self._origins[folder]))

    def _opened_writer(self, fps: float) -> Writer:
        if self._writer is None:
            with explained_refusals(str(self.video)):
                self._part.parent.mkdir(exist_ok=True)
            self._writer = Writer(self._part, fps, self.video)
        return self._writer


def _new_folder(out: Path, name: str) -> Path:
    """The masks' folder, of a name that nothing has: two recordings may begin in one second."""
    (out / MASKS).mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        free = name if number == 1 else f"{name}-{number}"
        if any(
            (out / taken).exists() for taken in (f"{TIMES}/{free}.csv", f"{VIDEOS}/{free}.mp4", f"{COLOURS}/{free}")
        ):
            continue
        with suppress(FileExistsError):
            (out / MASKS / free).mkdir()
            break
    return out / MASKS / free
