"""What a killed recording leaves half written: its video, hidden, which the next recording removes."""

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

from segpipe.predicting.done import record_in
from segpipe.predicting.job import MASKS, TIMES, VIDEOS, picture_name
from segpipe.rundir.storage import explained_refusals

_log = logging.getLogger(__name__)

_BEGIN, _END = ".", ".partial.mp4"  # around a recording's name


def part_of(video: Path) -> Path:
    """Where a recording's video lies while it is written."""
    return video.with_name(f"{_BEGIN}{video.stem}{_END}")


def hold(times: int) -> None:
    """Keep a recording's open table, by which others see that this process lives, as long as it does."""
    with suppress(OSError):  # a file system without locks: nobody removes anything there
        fcntl.flock(times, fcntl.LOCK_EX | fcntl.LOCK_NB)


def remove_killed(out: Path) -> None:
    """Delete the videos that nobody writes any more; masks and times of their recordings stay.

    A hidden video is segpipe's where the recording of its name has a mask with a record.
    """
    for part in sorted((out / VIDEOS).glob(f"{_BEGIN}*{_END}")):
        name = part.name.removeprefix(_BEGIN).removesuffix(_END)
        is_ours = bool(record_in(out / MASKS / name / picture_name(0)))
        if is_ours and not part.is_symlink() and part.is_file() and _is_left(out / TIMES / f"{name}.csv"):
            with explained_refusals(str(part)):
                part.unlink(missing_ok=True)
            _log.info("%s: removed, its recording was killed; masks and times are whole", part)


def _is_left(times: Path) -> bool:
    """Whether nobody holds this table."""
    try:
        descriptor = os.open(times, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
