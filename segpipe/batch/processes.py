"""Processes with an actor each, and tasks for whoever is free: what one had when it ended is given to another.

A process that ends takes nothing along: its images are given to others, first those of one call each by itself, so that
one that ends every process is known and left. Before anything is segmented, one process on each node has opened the
bundle; every later one opens it before it works.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from segpipe.batch.actor import Opening
from segpipe.batch.cluster import Size
from segpipe.batch.hands import EndedError, Hand, Hands
from segpipe.batch.index import Row
from segpipe.batch.items import Item
from segpipe.batch.version import Version
from segpipe.errors import BackendError, InputError, SegpipeError
from segpipe.rundir.storage import sha256_of_bytes

_log = logging.getLogger(__name__)

MOST_TRIES = 3
"""Processes that one image may end, each time alone, before it is called broken."""
_LOOK_S = 1.0
_PATIENCE_S = 30.0  # for a node without room; and between two lines that say that nothing is there to work on
_NAMED = 5  # nodes that refuse, in one line


@dataclass(frozen=True)
class Task:
    """Images for one call, and how many processes ended over them."""

    items: tuple[Item, ...]
    tries: int = 0
    method: str = "work"
    wanted: range | None = None
    """Rows of tiles of a strip."""
    device: str = ""
    """Whose pixels are wanted; empty where any device's are."""

    def arguments(self, source: str, version: str) -> tuple[Any, ...]:
        """Of the call."""
        return (self.items, source, version, *([] if self.wanted is None else [self.wanted]))

    def after_an_end(self) -> "list[Task]":
        """Each by itself: who ended it is not known, unless there was but one."""
        if len(self.items) > 1:
            return [replace(self, items=(item,)) for item in self.items]
        return [replace(self, tries=self.tries + 1)]


class LostError(Exception):
    """An image that ended one process after the other, and its row."""

    def __init__(self, row: Row) -> None:
        super().__init__(row.error)
        self.row = row


class Processes:
    """The first process that opens the bundle says which version all are of: others are refused."""

    def __init__(self, hands: Hands, bundle: bytes, opening: Opening, size: Size) -> None:
        self._opening = replace(opening, bundle_sha256=sha256_of_bytes(bundle))
        self._hands, self._bundle, self._size = hands, hands.share(bundle), size
        self._starting: dict[Any, Hand] = {}
        """What processes will say of themselves -> the process."""
        self._flying: dict[Any, tuple[Hand, Task]] = {}
        self._free: list[Hand] = []
        self._devices: dict[Hand, str] = {}
        self._refusals: list[SegpipeError] = []
        self._failed = 0
        self._idle_s = time.monotonic()
        self._version: Version | None = None
        self._begun = False
        self.places = ("", "")
        """Addresses of images and of the version's folder, for tasks."""
        places = [*hands.places()][: size.actors]
        self._first = {self._start(place) for place in places}
        """Calls of those that are waited for, one on each node."""
        for _ in range(size.actors - len(places)):
            self._start()

    def version(self) -> Version:
        """Wait until one process on each node has opened the bundle; those that may not are named together."""
        heard_s = time.monotonic()
        while self._first or self._version is None:
            for call in self._ready():
                heard_s = time.monotonic()
                self._opened(call)
            if self._refusals and not self._first:
                raise _refused(self._refusals)
            if self._version is not None and time.monotonic() - heard_s > _PATIENCE_S:
                _log.warning("no room yet on %d nodes: they are asked when there is", len(self._first))
                self._first.clear()
        self._begun = True
        return self._version

    def answers(self, tasks: "deque[Task]") -> Iterator[tuple[Task, Any]]:
        """What came of tasks, and of those that are added meanwhile; of some none, where nobody may do them."""
        while tasks or self._flying:
            while tasks and (hand := self._fitting(tasks[0])):
                self._free.remove(hand)
                task = tasks.popleft()
                self._flying[hand.call(task.method, *task.arguments(*self.places))] = (hand, task)
            if tasks and self._free and not self._flying:
                return
            for task, answer in self._ended():
                if isinstance(answer, EndedError):
                    yield from self._tried(task, tasks)
                else:
                    yield task, answer

    def let_end(self) -> None:
        """Wait for calls whose answers nobody wants any more."""
        while self._flying:
            deque(self._ended(), maxlen=0)

    def close(self) -> None:
        """End the processes."""
        for hand in [*self._starting.values(), *self._free, *(hand for hand, _ in self._flying.values())]:
            hand.end()

    def _fitting(self, task: Task) -> Hand | None:
        return next((hand for hand in reversed(self._free) if task.device in ("", self._devices[hand])), None)

    def _ended(self) -> Iterator[tuple[Task, Any]]:
        """Calls that have ended by now, those of ended processes with an EndedError."""
        for call in self._ready():
            if call in self._starting:
                self._opened(call)
                continue
            hand, task = self._flying.pop(call)
            try:
                answer = self._hands.answer(call)
            except EndedError as error:
                _log.warning("%s: another one is started, and its images are looked at again", error)
                hand.end()
                self._devices.pop(hand)
                self._start()
                yield task, error
                continue
            self._free.append(hand)
            if isinstance(answer, SegpipeError):
                raise answer
            yield task, answer

    def _tried(self, task: Task, tasks: "deque[Task]") -> Iterator[tuple[Task, LostError]]:
        """Those that may be tried again go first; what ended one process after the other is broken."""
        for part in task.after_an_end():
            if part.tries < MOST_TRIES:
                tasks.appendleft(part)
                continue
            (item,) = part.items
            why = f"{item.name} ended {part.tries} processes that segmented it, one after the other"
            row = Row(path=item.name, size=item.size, mtime_ns=item.stamp, tries=part.tries, error=why)
            yield part, LostError(row)

    def _start(self, place: str = "") -> Any:
        hand = self._hands.start(place)
        call = hand.call("open", self._bundle, self._opening)
        self._starting[call] = hand
        return call

    def _ready(self) -> Sequence[Any]:
        """Calls that have ended; none after a second, so that Ctrl-C and a full cluster are noticed."""
        ready = self._hands.ready([*self._starting, *self._flying], _LOOK_S)
        now = time.monotonic()
        if ready or self._flying:
            self._idle_s = now
        elif now - self._idle_s > _PATIENCE_S:
            self._idle_s = now
            _log.warning("waiting for room: none of %d processes has been started yet", len(self._starting))
        return ready

    def _opened(self, call: Any) -> None:
        hand = self._starting.pop(call)
        self._first.discard(call)
        try:
            found = self._hands.answer(call)
        except EndedError as error:
            hand.end()
            self._failed += 1
            if self._failed > MOST_TRIES * self._size.actors:
                raise _unstartable(error) from error
            self._start()
            return
        if not isinstance(found, SegpipeError) and self._version not in (None, found[0]):
            found = InputError(f"{found[1]} opens another backend than the others", hint="name one with --backend")
        if isinstance(found, SegpipeError):
            self._leave(hand, found)
            return
        version, node, process, device = found
        _log.debug("a process on %s, number %d", node, process)
        self._free.append(hand)
        self._devices[hand] = device
        self._version, self._failed = version, 0

    def _leave(self, hand: Hand, why: SegpipeError) -> None:
        """A process that may not segment. What has begun goes on with the others, as long as there are any."""
        hand.end()
        self._refusals.append(why)
        if self._begun:
            if not (self._free or self._flying or self._starting):
                raise _refused(self._refusals)
            _log.error("a process less: %s", why)


def _refused(errors: Sequence[SegpipeError]) -> SegpipeError:
    """One error of all nodes that refuse, as the first one says it."""
    told = list(dict.fromkeys(error.message for error in errors))
    more = [f"and {len(told) - _NAMED} more"] if len(told) > _NAMED else []
    return type(errors[0])("; ".join([*told[:_NAMED], *more]), hint=errors[0].hint)


def _unstartable(error: Exception) -> BackendError:
    return BackendError(
        f"processes end before they can work: {error}",
        hint="install 'segpipe[cpu,batch]' of this version on every node, and see that there is memory",
    )
