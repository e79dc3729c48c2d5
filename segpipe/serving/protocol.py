"""Protocol: what uvicorn's leaves open. An answer leaves in one piece, before anything else is done.

Who sends no whole head, reads no answer, or comes when files run out, is let go.
"""

import asyncio
import resource
import sys
from functools import cache
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from segpipe.serving.guard import LEAST_BYTES_PER_S

_HEAD_S = 10.0  # for all lines of a request's head to come
_READING_S = 10.0  # between two looks at a client that takes its answer slowly
_RESERVED_FILES = 128  # of the process's limit, for what is not a connection: libraries, a GPU, a model that is opened
_LEAST_CONNECTIONS = 16
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


@cache
def most_connections() -> int:
    """By the limit of open files (`ulimit -n`): without files nobody could be let in, and no model opened."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if files == resource.RLIM_INFINITY else max(_LEAST_CONNECTIONS, files - _RESERVED_FILES)


class Protocol(H11Protocol):
    """Of one connection."""

    _timer: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._joining = _Joining(transport, self.loop)
        super().connection_made(self._joining)  # type: ignore[arg-type]  # it has all of its methods
        if len(self.connections) > most_connections():
            transport.write(_FULL)
            transport.close()
        else:
            self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._timer is None:
            self._wait_for_head()

    def on_response_complete(self) -> None:
        self._joining.send()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_looking()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More is to be sent than the client takes: an answer that nobody reads would stay in memory."""
        super().pause_writing()
        self._stop_looking()
        self._look_after(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._stop_looking()
        super().resume_writing()

    def _look_after(self, unread_bytes: int) -> None:
        self._reading = self.loop.call_later(_READING_S, self._look, unread_bytes)

    def _look(self, before_bytes: int) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        if before_bytes - unread_bytes < _READING_S * LEAST_BYTES_PER_S:
            self.transport.abort()
        else:
            self._look_after(unread_bytes)

    def _stop_looking(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(_HEAD_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Joining:
    """A transport that sends what is written in one turn of the loop at once, or with `send`.

    Head and body would be a system call each, and the client would be woken for the head alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if data and not self._written:
            self._loop.call_soon(self.send)
        if data:
            self._written.append(data)

    def close(self) -> None:
        self.send()
        self._transport.close()

    def send(self) -> None:
        """What was written up to now."""
        written, self._written = self._written, []
        if written:
            self._transport.write(b"".join(written))
