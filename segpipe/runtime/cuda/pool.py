"""Pool: as many lanes as there are threads at work, made when they are needed, up to a limit."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.device import OutOfMemoryError
from segpipe.runtime.cuda.lane import Lane

Answer = TypeVar("Answer")

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
        self._retrying = threading.Lock()

    def run(self, work: Callable[[Lane], Answer]) -> Answer:
        """Work on a lane. Where memory is short it is done again, on a lane that others made or on the only one."""
        try:
            return self._on(self._acquired(self._may_make), work)
        except OutOfMemoryError:
            with self._retrying:  # one at a time, or they would take the last memory from each other
                answer = self._on(self._acquired(self._must_make), work)
        self._be_content()
        return answer

    def warm(self, count: int, work: Callable[[Lane], object]) -> None:
        """Work on up to `count` lanes that are there at once, without waiting for more than the first."""
        held = [self._acquired(self._may_make)]
        try:
            self._keep_or_discard(held, work)
            while len(held) < count and (lane := self._acquired_now()):
                held.append(lane)
                self._keep_or_discard(held, work)
        except OutOfMemoryError:
            if not held:
                raise
            _log.info("the GPU's memory is enough for %d warm lanes of %d", len(held), count)
        finally:
            for lane in held:
                self._give_back(lane)

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

    def _on(self, lane: Lane, work: Callable[[Lane], Answer]) -> Answer:
        """A lane that failed is thrown away: nobody knows what is on its stream. A wrong frame is no failure of it."""
        try:
            answer = work(lane)
        except InputError:
            self._give_back(lane)
            raise
        except BaseException:
            self._discard(lane)
            raise
        self._give_back(lane)
        return answer

    def _keep_or_discard(self, held: list[Lane], work: Callable[[Lane], object]) -> None:
        """Work on the last lane held; one that fails is held no more."""
        try:
            work(held[-1])
        except BaseException:
            self._discard(held.pop())
            raise

    def _may_make(self) -> bool:
        return self._made < self._limit

    def _must_make(self) -> bool:
        return self._made == 0

    def _acquired(self, may_make: Callable[[], bool]) -> Lane:
        """An idle lane, or a new one where there may be one; waits for either."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or may_make())
            if self._closed:
                raise BackendError("this backend is closed", hint="open the run again")
            if self._idle:
                return self._idle.pop()
            self._made += 1
        return self._new()

    def _acquired_now(self) -> Lane | None:
        with self._changed:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            if not self._may_make():
                return None
            self._made += 1
        return self._new()

    def _new(self) -> Lane:
        try:
            return self._make()
        except BaseException:
            self._forget()
            raise

    def _be_content(self) -> None:
        """The memory is not enough for more lanes than there are."""
        with self._changed:
            if self._limit > max(1, self._made):
                self._limit = max(1, self._made)
                _log.warning("the GPU's memory is enough for %d frames at once, not for more", self._limit)

    def _give_back(self, lane: Lane) -> None:
        with self._changed:
            keep = not self._closed
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
