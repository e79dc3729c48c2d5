"""A sequence through a function on several threads: results in order, bounded memory, errors in their place.

Ctrl-C may come between any two calls of the main thread. `concurrent.futures` and `threading` take their locks in
Python there: an interrupt at the wrong call leaves one locked, and the threads wait for ever, or it is dropped in a
weak reference's callback. So the main thread only calls what is written in C: raw threads and `SimpleQueue`.
"""

import atexit
from _thread import get_ident, start_new_thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ordered(function: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    """`map(function, items)` with `workers` items in work and one more waiting.

    `items` is advanced in the caller's thread. What the function or `items` raises comes after all earlier answers.
    Closing the generator, an error and Ctrl-C all wait for the items in work and end the threads.
    """
    crew: _Crew[Item, Answer] = _Crew(function)
    try:
        crew.start(workers)
        waiting: deque[_Task[Item, Answer]] = deque()
        source = iter(items)
        failure: Exception | None = None
        exhausted = False
        while not exhausted or waiting:
            if not exhausted and len(waiting) <= workers:
                try:
                    waiting.append(crew.submit(next(source)))
                except StopIteration:
                    exhausted = True
                except Exception as error:  # noqa: BLE001 - any error of the caller's iterator, kept for its place
                    failure, exhausted = error, True
                continue
            yield waiting.popleft().answer()
        if failure is not None:
            raise failure
    finally:
        crew.over = True
        crew.tasks.put(None)  # here, not in a method: at its first line an interrupt could come, and nobody would stop
        if get_ident() not in crew.threads:  # garbage collected in one of them, which cannot wait for itself
            crew.wait()


class _Task(Generic[Item, Answer]):
    """An item on its way to its answer, or to the error that comes in its place."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._outcome: SimpleQueue[tuple[Answer] | BaseException] = SimpleQueue()

    def work(self, function: Callable[[Item], Answer]) -> None:
        """In a thread of the crew."""
        try:
            self._outcome.put((function(self._item),))
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._outcome.put(error)

    def answer(self) -> Answer:
        """Wait for it, in the caller's thread."""
        outcome = self._outcome.get()
        if isinstance(outcome, tuple):
            return outcome[0]
        try:
            raise outcome
        finally:
            del outcome  # its traceback holds this frame


class _Crew(Generic[Item, Answer]):
    """Threads that take tasks in turn, until None comes."""

    def __init__(self, function: Callable[[Item], Answer]) -> None:
        self._function = function
        self.tasks: SimpleQueue[_Task[Item, Answer] | None] = SimpleQueue()
        self.over = False
        self.threads: set[int] = set()
        """Identities of those that run."""
        self._ended: SimpleQueue[None] = SimpleQueue()

    def start(self, workers: int) -> None:
        """All in one call: whenever an interrupt comes, the set holds the threads that run."""
        self.threads.update(map(start_new_thread, repeat(self._work, workers), repeat(())))
        _at_work.add(self)

    def submit(self, item: Item) -> _Task[Item, Answer]:
        """Put an item in line."""
        task: _Task[Item, Answer] = _Task(item)
        self.tasks.put(task)
        return task

    def wait(self) -> None:
        """Until the last thread has ended."""
        while self.threads:
            self._ended.get()
        self._ended.put(None)  # for whoever else waits

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            if not self.over:
                task.work(self._function)
            del task  # the frame is the caller's alone while this thread waits
        self.tasks.put(None)  # the next one's
        self.threads.discard(get_ident())
        if not self.threads:
            _at_work.discard(self)
        self._ended.put(None)


_at_work: set[_Crew[Any, Any]] = set()


@atexit.register  # once: Python never shrinks its table of these
def _end_all() -> None:
    """For streams that nobody closed: no thread may be inside a backend when Python goes."""
    crews = _at_work.copy()
    for crew in crews:
        crew.over = True
        crew.tasks.put(None)
    for crew in crews:
        crew.wait()
