"""Pool: as many lanes as there are threads at work, made when they are needed, up to a limit."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import OutOfMemoryError
from segpipe.runtime.cuda.lane import Lane

_log = logging.getLogger(__name__)


class Pool:
    """Hands each thread a lane of its own. Threads beyond the limit wait."""

    def __init__(self, make: Callable[[], Lane], limit: int) -> None:
        self._make = make
        self._limit = limit
        self._idle: list[Lane] = []
        self._made = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane until the end of the block. One that failed is thrown away: nobody knows what is on its stream."""
        lane = self._acquire()
        try:
            yield lane
        except BaseException:
            self._give_back(lane, broken=True)
            raise
        self._give_back(lane, broken=False)

    def describe(self) -> list[dict[str, int]]:
        """What the idle lanes hold."""
        with self._changed:
            return [lane.describe() for lane in self._idle]

    def close(self) -> None:
        """Free the idle lanes, then wait for those at work and free them too."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for lane in idle:
            self._discard(lane)
        with self._changed:
            self._changed.wait_for(lambda: self._made == 0)

    def _acquire(self) -> Lane:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._made < self._limit)
            if self._closed:
                raise BackendError("this backend is closed", hint="open the run again")
            if self._idle:
                return self._idle.pop()
            self._made += 1
        try:
            return self._make()
        except OutOfMemoryError:
            if not self._can_share():
                raise
            return self._acquire()
        except BaseException:
            self._forget()
            raise

    def _can_share(self) -> bool:
        """No memory for one more lane: be content with those there are, if any."""
        with self._changed:
            self._made -= 1
            self._changed.notify_all()
            if self._made == 0:
                return False
            _log.warning("the GPU's memory is enough for %d frames at once, not for more", self._made)
            self._limit = self._made
            return True

    def _give_back(self, lane: Lane, *, broken: bool) -> None:
        with self._changed:
            keep = not broken and not self._closed
            if keep:
                self._idle.append(lane)
                self._changed.notify()
        if not keep:
            self._discard(lane)

    def _discard(self, lane: Lane) -> None:
        lane.close()
        self._forget()

    def _forget(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify_all()
