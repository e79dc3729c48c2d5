"""A sequence through a function on several threads: results in order, bounded memory, errors in their place."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def ordered(function: Callable[[Item], Answer], items: Iterable[Item], workers: int) -> Iterator[Answer]:
    """`map(function, items)` with `workers` items in work and one more waiting.

    `items` is advanced in the caller's thread. What the function or `items` raises comes after all earlier answers.
    Closing the generator, an error and Ctrl-C all wait for the items in work and end the threads.
    """
    pool = ThreadPoolExecutor(workers, "segpipe-stream")
    try:
        waiting: deque[Future[Answer]] = deque()
        source = iter(items)
        failure: Exception | None = None
        exhausted = False
        while not exhausted or waiting:
            if not exhausted and len(waiting) <= workers:
                try:
                    waiting.append(pool.submit(function, next(source)))
                except StopIteration:
                    exhausted = True
                except Exception as error:  # noqa: BLE001 - any error of the caller's iterator, kept for its place
                    failure, exhausted = error, True
                continue
            yield waiting.popleft().result()
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
