"""Line: work for a few threads, and a short queue before them. Who finds it full is told when to come again."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import Any, TypeVar

T = TypeVar("T")

_NEWEST = 0.1  # share of the newest call in the mean of their seconds


class FullError(Exception):
    """There is no room; `retry_after_s` is about when there will be some."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"come again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class GoneError(Exception):
    """Nobody waits for the answer any more."""


class Line:
    """Called from one event loop; the work runs in threads."""

    def __init__(self, workers: int, queue: int) -> None:
        self.workers, self.queue = workers, queue
        self.inside = 0
        """In work or waiting."""
        self._mean_s = 0.0
        self._pool = ThreadPoolExecutor(workers, "segpipe-serve")

    @property
    def waiting(self) -> int:
        """In line, before any thread."""
        return max(0, self.inside - self.workers)

    async def run(self, work: Callable[[], T], left: Callable[[], Awaitable[object]]) -> T:
        """The work's answer. `left` comes back when the client has gone: work that has not begun is dropped then."""
        if self.inside >= self.workers + self.queue:
            raise FullError(max(1, math.ceil(self.inside * self._mean_s / self.workers)))
        job = self._submit(work)
        answer: asyncio.Future[T] = asyncio.wrap_future(job)
        gone: asyncio.Future[Any] = asyncio.ensure_future(left())
        try:
            either: set[asyncio.Future[Any]] = {answer, gone}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise GoneError
            return answer.result()
        finally:
            gone.cancel()
            job.cancel()  # at once: by way of `answer` it would be the loop's next turn, and a thread may be quicker
            answer.cancel()

    def close(self) -> None:
        """Wait for the threads."""
        self._pool.shutdown()

    def _submit(self, work: Callable[[], T]) -> "Future[T]":
        loop = asyncio.get_running_loop()

        def timed() -> T:
            begun = perf_counter()
            try:
                return work()
            finally:
                loop.call_soon_threadsafe(self._note, perf_counter() - begun)

        self.inside += 1
        job = self._pool.submit(timed)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return job

    def _note(self, seconds: float) -> None:
        self._mean_s += (seconds - self._mean_s) * (_NEWEST if self._mean_s else 1)

    def _leave(self, *_: Any) -> None:
        self.inside -= 1
