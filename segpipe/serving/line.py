"""Line: work for a few threads, and a short queue before them. Who finds it full is told when to come again."""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from queue import SimpleQueue
from time import monotonic, perf_counter
from typing import Any, TypeVar

T = TypeVar("T")

_NEWEST = 0.1  # share of the newest call in the mean of their seconds


class FullError(Exception):
    """There is no room; `retry_after_s` is about when there will be some."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} pictures wait already")
        self.retry_after_s = retry_after_s


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class _Job:
    """Work for a thread, and the answer that a coroutine awaits."""

    def __init__(self, work: Callable[[], Any], answer: "asyncio.Future[Any]") -> None:
        self.work, self.answer, self.loop = work, answer, answer.get_loop()


class Line:
    """Called from one event loop; the work runs in threads.

    A thread wakes the loop once an answer: each further time costs more than all else that is done here. The thread
    that was idle last is the next at work, since its memory is still in the caches.
    """

    def __init__(self, workers: int, queue: int) -> None:
        self.workers, self.queue = workers, queue
        self.inside = 0
        """In work or waiting."""
        self._mean_s = 0.0
        self._waiting: deque[_Job] = deque()
        self._idle = [_Worker(self._waiting, self._done) for _ in range(workers)]
        self._threads = [*self._idle]

    @property
    def oldest_s(self) -> float:
        """For how long the work has gone on that was begun first; 0 where none is under way."""
        begun = [since for thread in self._threads if (since := thread.since) is not None]
        return monotonic() - min(begun) if begun else 0.0

    @property
    def waiting(self) -> int:
        """In line, before any thread."""
        return max(0, self.inside - self.workers)

    def require_room(self) -> None:
        """Raise where nothing further may wait."""
        if self.inside >= self.workers + self.queue:
            raise FullError(self.queue, max(1, math.ceil(self.inside * self._mean_s / self.workers)))

    async def run(self, work: Callable[[], T], left: Callable[[], Awaitable[object]]) -> T:
        """The work's answer. `left` comes back when the client has gone: work that waits is dropped then."""
        self.require_room()
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(work, answer)
        if self._begin(job):
            return await answer  # nothing is saved by knowing: a watch costs more than all else here
        gone: asyncio.Future[Any] = asyncio.ensure_future(left())
        gone.add_done_callback(lambda _: _settle(answer, error=GoneError()))
        try:
            return await answer
        finally:
            gone.cancel()
            self._drop(job)

    def close(self, seconds: float = math.inf) -> bool:
        """Wait so long for the threads; whether all have ended."""
        until = monotonic() + seconds
        for thread in self._threads:
            thread.jobs.put(None)
        for thread in self._threads:
            thread.join(min(max(0.0, until - monotonic()), threading.TIMEOUT_MAX))
        return not any(thread.is_alive() for thread in self._threads)

    def _begin(self, job: _Job) -> bool:
        """Whether a thread has it already; else it waits."""
        self.inside += 1
        if self._idle:
            self._idle.pop().jobs.put(job)
            return True
        self._waiting.append(job)
        return False

    def _drop(self, job: _Job) -> None:
        """What no thread has taken is out of the line."""
        with suppress(ValueError):
            self._waiting.remove(job)
            self.inside -= 1

    def _done(
        self, worker: "_Worker | None", job: _Job, seconds: float, value: Any, error: BaseException | None
    ) -> None:
        """In the loop; `worker` where that thread has nothing more to do."""
        self.inside -= 1
        self._mean_s += (seconds - self._mean_s) * (_NEWEST if self._mean_s else 1)
        if worker is not None:
            if self._waiting:
                worker.jobs.put(self._waiting.popleft())
            else:
                self._idle.append(worker)
        _settle(job.answer, value, error)


def _settle(answer: "asyncio.Future[Any]", value: Any = None, error: BaseException | None = None) -> None:
    """Nothing where it is settled already."""
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)


class _Worker(threading.Thread):
    """Does the jobs that it is given, each time with those that wait after it."""

    def __init__(self, waiting: "deque[_Job]", done: Callable[..., None]) -> None:
        super().__init__(name="segpipe-serve", daemon=True)
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._waiting, self._done = waiting, done
        self.since: float | None = None
        """When the job that it does was begun."""
        self.start()

    def run(self) -> None:
        """Until there is None."""
        while (job := self.jobs.get()) is not None:
            self._do(job)
            self.since = None
            del job  # or an idle thread would keep the last picture

    def _do(self, job: _Job) -> None:
        following: _Job | None = job
        while following is not None:
            job, value, error, begun = following, None, None, perf_counter()
            self.since = monotonic()
            try:
                value = job.work()
            except BaseException as raised:  # noqa: BLE001 - raised where the answer is awaited
                error = raised
            seconds = perf_counter() - begun
            with suppress(IndexError):
                following = None
                following = self._waiting.popleft()
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                job.loop.call_soon_threadsafe(self._done, None if following else self, job, seconds, value, error)
            value = error = None  # an error's traceback holds this frame, which would hold the error
