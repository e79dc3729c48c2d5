"""Workers of `segpipe batch` that go wrong on purpose, in processes that import them by name."""

import os
import signal
from collections.abc import Iterable, Iterator

from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.worker import Worker


class Deadly(Worker):
    """`poison.png` ends whatever process looks at it, as a bug in a decoder would."""

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        for item in items:
            if item.name == "poison.png":
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().rows([item])


class Falling(Worker):
    """Each process ends at its fifth image."""

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        for count, item in enumerate(items):
            if count == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().rows([item])
