"""A live source through the network, until it ends or somebody ends it."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from segpipe.errors import BackendMissingError, word
from segpipe.media.address import Address
from segpipe.predicting.job import Advance, Job, Live
from segpipe.predicting.killed import remove_killed
from segpipe.predicting.recording import Recording
from segpipe.predicting.video import DEFAULT_FPS, require_contract
from segpipe.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from segpipe.predicting.feed import Feed

_log = logging.getLogger(__name__)

_ENDING = (signal.SIGINT, signal.SIGTERM)


def predict_live(segmenter: Segmenter, address: Address, job: Job, live: Live, tick: Advance) -> Recording:
    """Write what comes as it comes. Asked to end, the recording is closed and KeyboardInterrupt raised.

    One frame is in work at a time: a stream's pipeline would keep a mask back until further frames come.
    """
    require_contract(address.shown, segmenter)
    feed = _feed(address, live, job.max_pixels)
    remove_killed(job.out)
    with _ended_by(feed.stop) as asked:
        with feed:
            recording = Recording(segmenter, address, job)
            try:
                for frame in feed:
                    recording.require_size(frame)
                    mask = job.mask(segmenter, frame.pixels)
                    recording.write(frame, mask, feed.fps or DEFAULT_FPS)
                    tick(1)
            finally:
                recording.close(dropped=feed.dropped, reconnected=feed.reconnected)
                _log.info("%s", _told(address, recording, feed))
        if asked:
            raise KeyboardInterrupt
    return recording


def _feed(address: Address, live: Live, max_pixels: int) -> "Feed":
    try:
        from segpipe.predicting.feed import Feed
    except ImportError:
        raise BackendMissingError(
            "streams and cameras are read by PyAV, which is not installed", hint="pip install 'segpipe[video]'"
        ) from None
    return Feed(address, live, max_pixels)


def _told(address: Address, recording: Recording, feed: "Feed") -> str:
    if not recording.frames:
        return f"{address.shown}: no frame came"
    return (
        f"{address.shown}: {recording.frames} frames in {word(recording.masks)}, {feed.dropped} dropped as too late, "
        f"reconnected {feed.reconnected} times, at most {recording.latest_ms:.0f} ms from frame to mask"
    )


@contextmanager
def _ended_by(stop: Callable[[], None]) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM asks for the end, the next does what it always does; what came is in the list."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    handlers = {number: signal.getsignal(number) for number in _ENDING}
    # nohup and a shell's `&` ignore Ctrl-C; what is None was set by C, and could not be put back
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        restore()
        stop()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked
    finally:
        restore()
