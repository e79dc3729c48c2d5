"""Processes that a crew gives calls to: what it asks of them, and those of this machine."""

import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from segpipe.batch.actor import Actor


class EndedError(Exception):
    """The process of a call is no more. What it was doing is known from the store alone."""


class Hand(Protocol):
    """One process with an `Actor` in it."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Begin a call; returns what to wait for."""
        ...

    def end(self) -> None:
        """Kill it; twice is harmless."""
        ...


class Hands(Protocol):
    """Where processes come from."""

    def places(self) -> Sequence[str]:
        """Where one is started and asked before anything is segmented: by a node's id, or empty for anywhere."""
        ...

    def start(self, place: str = "") -> Hand:
        """Another one, which may wait for room."""
        ...

    def share(self, data: bytes) -> Any:
        """What to hand to calls instead of bytes that all of them get."""
        ...

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        """Those that have ended, or an empty sequence after a while."""
        ...

    def answer(self, call: Any) -> Any:
        """What a call returned, or EndedError."""
        ...


class LocalHands:
    """Children of this process."""

    def places(self) -> Sequence[str]:
        return [""]

    def start(self, place: str = "") -> "LocalHand":
        return LocalHand()

    def share(self, data: bytes) -> bytes:
        return data

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return wait(calls, timeout_s)

    def answer(self, call: Any) -> Any:
        try:
            good, value = call.recv()
        except (EOFError, ConnectionError) as error:
            raise EndedError("a process ended") from error
        if not good:
            raise value
        return value


class LocalHand:
    """A child of this process; it ends with its parent, however that ends."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")  # threads and libraries of ours do not survive a fork
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Connection:
        with suppress(ConnectionError):  # it ended meanwhile: the answer will say so
            self._pipe.send((method, arguments))
        return self._pipe

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """In the child: one call after the other, until the parent is gone. Ctrl-C is the parent's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    actor = Actor()
    while True:
        try:
            method, arguments = pipe.recv()
            try:
                answer = True, getattr(actor, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - a bug: raised again in the parent
                answer = False, error
            pipe.send(answer)
        except (EOFError, ConnectionError):
            return
