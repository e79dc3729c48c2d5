"""A crew of processes, on this machine or Ray's: which of them gets what, and what their answers make.

Only names of images travel there, and rows of the index come back; of an image that several work on, strips of a mask.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from segpipe.batch.actor import Opening
from segpipe.batch.cluster import Size
from segpipe.batch.hands import Hands
from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.processes import LostError, Processes, Task
from segpipe.batch.sources import Source
from segpipe.batch.spread import Writing, candidates, pays, written
from segpipe.batch.stores import Store
from segpipe.batch.strips import Plan, Strip
from segpipe.batch.version import Version
from segpipe.errors import InputError, SegpipeError
from segpipe.predicting.image import concerns_one

_log = logging.getLogger(__name__)


class ManyHands:
    """A crew. `version` before `rows`: nothing is segmented before processes have opened the bundle."""

    def __init__(self, hands: Hands, bundle: bytes, opening: Opening, size: Size) -> None:
        self._opening, self._size = opening, size
        self._processes = Processes(hands, bundle, opening, size)

    def version(self) -> Version:
        """Wait until one process on each node has opened the bundle; those that may not are named together."""
        return self._processes.version()

    def close(self) -> None:
        """End the processes."""
        self._processes.close()

    def rows(self, items: Iterable[Item], source: Source, version: Store) -> Iterator[Row]:
        """What became of each image, as it becomes known."""
        self._processes.places, found = (source.store.address(), version.address()), [*items]
        plans = self._plans(candidates(found, self._size.actors))
        yield from self._whole([item for item in found if item not in plans] if plans else found)
        for item, plan in plans.items():
            yield from self._spread(Writing(item, plan, source.store, version, self._opening.job))

    def _whole(self, items: Sequence[Item]) -> Iterator[Row]:
        """Each image in one process; a large one is a call of its own."""
        large = [item for item in items if item.by_windows]
        small = [item for item in items if not item.by_windows] if large else items
        tasks = deque(Task((item,)) for item in large)
        tasks.extend(map(Task, _chunks(small, self._size.per_call)))
        for task, answer in self._processes.answers(tasks):
            if isinstance(answer, LostError):
                yield answer.row
            else:
                yield from (row._replace(tries=task.tries + 1) for row in answer)

    def _plans(self, items: Sequence[Item]) -> dict[Item, Plan]:
        """Of large images whose strips are to be spread; none where each in one process ends as soon."""
        asked = deque(Task((item,), method="plan") for item in items)
        found = {task.items[0]: plan for task, plan in self._processes.answers(asked) if isinstance(plan, Plan)}
        return found if pays(found.values(), self._size.actors) else {}

    def _spread(self, writing: Writing) -> Iterator[Row]:
        """One image by all processes. Where something is wrong, one looks at it as at any other, and says what."""
        try:
            yield written(writing, self._strips(writing))
            return
        except LostError as error:
            again, lost = [], [error.row]
        except SegpipeError as error:
            if not concerns_one(error):
                raise
            _log.warning("%s is looked at by one process alone: %s", writing.item.name, error.message)
            again, lost = [writing.item], []
        self._processes.let_end()
        yield from lost
        yield from self._whole(again)

    def _strips(self, writing: Writing) -> Iterator[Strip]:
        """Strips from the top. Two for each process are in work at most, or wait, deflated, for those before them."""
        item, plan, twice = writing.item, writing.plan, 2 * self._size.actors
        every = (
            Task((item,), method="strip", wanted=wanted, device=plan.origin.device)
            for wanted in plan.strips(self._size.actors)
        )
        tasks, came, row = deque(islice(every, twice)), dict[int, Strip](), 0
        for task, answer in self._processes.answers(tasks):
            if isinstance(answer, LostError):
                raise answer
            if answer is None or task.wanted is None:
                raise InputError(f"a strip of {item.name} could not be segmented", hint="see the next lines")
            came[task.wanted.start] = answer
            while strip := came.pop(row, None):
                writing.require_same(strip)
                yield strip
                row = strip.stop
                _log.info("%s: %d of %d rows of tiles", item.name, row, plan.tile_rows)
                tasks.extend(islice(every, 1))
        if row < plan.tile_rows:
            raise InputError(f"no process is left on {plan.origin.device}, where {item.name} was begun", hint="wait")


def _chunks(items: Sequence[Item], size: int) -> Iterator[tuple[Item, ...]]:
    return (tuple(items[start : start + size]) for start in range(0, len(items), size))
