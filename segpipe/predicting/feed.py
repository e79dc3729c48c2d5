"""Frames of a live source, read on a thread of their own: few wait, late ones may go, a broken stream may come back."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue

from segpipe.media.address import Address
from segpipe.media.live import BrokenOffError, Connection, LiveFrame
from segpipe.predicting.job import Live

_log = logging.getLogger(__name__)

WAITING = 4
"""Frames that wait at most."""
_LOOK_S = 0.1  # how often a thread that waits looks whether it is over
_END_S = 1.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 5.0


class Feed:
    """Iterate over it once, in one thread; `stop` may be called from anywhere, and from a signal's handler."""

    def __init__(self, address: Address, live: Live, max_pixels: int) -> None:
        self._address, self._live, self._max_pixels = address, live, max_pixels
        self._frames: SimpleQueue[LiveFrame | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._over = False
        self._taken = 0
        self.dropped = 0
        self.reconnected = 0
        self.fps = 0.0
        self._thread = threading.Thread(target=self._work, name="segpipe-feed", daemon=True)

    def stop(self) -> None:
        """No further frame; those that wait are dropped."""
        self._over = True

    def __enter__(self) -> "Feed":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """A thread that waits for data in FFmpeg cannot be woken: it ends by itself when FFmpeg's patience does."""
        self.stop()
        self._thread.join(_END_S)

    def __iter__(self) -> Iterator[LiveFrame]:
        while not self._over:
            try:
                frame = self._frames.get(timeout=_LOOK_S)
            except Empty:
                continue
            if frame is None:
                break
            yield frame
        if self._failure is not None and not self._over:
            raise self._failure

    def _work(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - raised in the thread that iterates
            self._failure = error
        finally:
            self._frames.put(None)

    def _read(self) -> None:
        """One connection after the other, as long as there is hope."""
        deadline, pause = 0.0, _PAUSE_S
        while True:
            taken = self._taken
            failure, now = self._read_one(), time.monotonic()
            if not deadline or self._taken > taken:
                deadline, pause = now + self._live.reconnect_s, _PAUSE_S
            if self._over or now + pause > deadline:
                break
            why = failure.message if failure else f"{self._address.shown} ended"
            _log.warning("%s; trying again for %.0f s", why, deadline - now)
            self._sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
            self.reconnected += 1
        if failure is not None:
            raise failure

    def _read_one(self) -> BrokenOffError | None:
        """Why it broke off; None at its own end."""
        try:
            with Connection(self._address, self._max_pixels) as connection:
                self.fps = self.fps or connection.fps
                for frame in connection.frames():
                    self._hand_over(frame)
                    if self._over:
                        break
        except BrokenOffError as error:
            return error
        return None

    def _hand_over(self, frame: LiveFrame) -> None:
        while self._frames.qsize() >= WAITING and not self._over:
            if not self._live.drop_late:
                time.sleep(_LOOK_S / 10)
                continue
            with suppress(Empty):
                self._frames.get_nowait()
                self.dropped += 1
        self._frames.put(frame)
        self._taken += 1

    def _sleep(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._over:
            time.sleep(_LOOK_S)
