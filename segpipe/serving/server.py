"""The process: a socket, one event loop, signals. SIGTERM drains, SIGHUP reloads, Ctrl-C drains too."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from segpipe.cores import usable_cores
from segpipe.errors import InputError
from segpipe.serving.app import build_app
from segpipe.serving.guard import Guard, Limits
from segpipe.serving.line import Line
from segpipe.serving.metrics import Metrics
from segpipe.serving.models import BusyError, Models, Source
from segpipe.serving.protocol import Protocol
from segpipe.serving.service import Service
from segpipe.serving.token import read_token

_HEAD_BYTES = 32 * 1024  # of a request line with its headers
_GRACE_S = 1.0  # between the last accepted connection and the end of those on which nothing comes
_LEAVE_S = 60.0  # for answers that nobody reads
_FINISH_S = 5.0  # for pictures whose answers nobody awaits any more
_WATCH_S = 1.0  # between two looks at the source
_IDLE_S = 75  # longer than proxies keep a connection, which else meets its end with a request
_BACKLOG = 512
_LET_IN_AT_ONCE = 4  # by a turn of the loop: asyncio asks for so many at least, and logs each that it cannot get

_NO_RELOAD = "reloading over HTTP needs a token: start with --token-file, or send SIGHUP"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Of one server."""

    source: Source
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    max_bytes: int = 64 << 20
    queue: int = 16
    watch: bool = False
    """Whether a source that has changed is opened by itself."""
    workers: int = 0
    """Threads that segment; 0: one a core."""


def serve(settings: Settings) -> None:
    """Until SIGTERM or Ctrl-C; raises what keeps the first model from being opened."""
    token = read_token(settings.token_file) if settings.token_file else b""
    with listening(settings.host, settings.port) as listener:
        address = listener.getsockname()
        if not token and not address[0].startswith("127.") and address[0] != "::1":
            _log.warning("everybody who reaches %s may use this server: --token-file asks for a token", address[0])
        process = _Process(settings, token)
        asyncio.run(process.run(listener))
    if process.is_stuck:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)  # what libraries do at the end would meet the thread that still works


def listening(host: str, port: int) -> socket.socket:
    """A socket that nobody else listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot listen on {host}:{port}: {reason}", hint="choose --host and --port") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # asyncio sets it on sockets of its own alone
    return listener


class _Process:
    """One run of the server, inside an event loop."""

    def __init__(self, settings: Settings, token: bytes) -> None:
        self._metrics = metrics = Metrics()
        self._models, self._watches = Models(settings.source, metrics.count_reload), settings.watch
        self._line = Line(settings.workers or usable_cores(), settings.queue)
        self._service = Service(self._models, self._line, metrics)
        held_bytes = settings.max_bytes * (settings.queue + self._line.workers)
        limits = Limits(token, settings.max_bytes, held_bytes)
        app = build_app(self._service, "" if token else _NO_RELOAD)
        self._guard = Guard(app, limits, metrics, lambda: self._models.artifact, self._line.require_room)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.is_stuck = False
        """Whether a picture never ended."""

    async def run(self, listener: socket.socket) -> None:
        config = uvicorn.Config(
            self._guard, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            server_header=False, proxy_headers=False, interface="asgi3",
            h11_max_incomplete_event_size=_HEAD_BYTES, backlog=_LET_IN_AT_ONCE,
            timeout_graceful_shutdown=int(_LEAVE_S), timeout_keep_alive=_IDLE_S,
        )  # fmt: skip
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        server = _Server(config, self._drain)
        connections = server.server_state.connections
        self._metrics.watch("segpipe_connections", "Clients that are connected.", lambda: len(connections))
        self._start(self._open(server))
        if self._watches:
            self._start(self._watch())
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload_on_signal)
        print("http://{}:{}".format(*_shown(listener)), flush=True)
        try:
            await server.serve(sockets=[listener])
        finally:
            for task in [*self._tasks]:
                task.cancel()
            self.is_stuck = not await asyncio.to_thread(self._line.close, _FINISH_S)
            if self.is_stuck:
                _log.error("a picture does not end: ending without it")
            else:
                self._models.close()
        if self._failure is not None:
            raise self._failure

    async def _open(self, server: uvicorn.Server) -> None:
        """The first model, beside the server: /healthz answers meanwhile."""
        try:
            await asyncio.to_thread(self._models.open)
            _log.info("ready: artifact %s", self._models.artifact[:12])
        except Exception as error:  # noqa: BLE001 - raised by `run`, once the server has ended
            self._failure, server.should_exit = error, True

    def _reload_on_signal(self) -> None:
        self._start(self._reload("SIGHUP"))

    async def _reload(self, asked_by: str) -> None:
        with suppress(BusyError):
            await asyncio.to_thread(self._models.reload, asked_by)

    async def _watch(self) -> None:
        """What was refused is tried again when it has changed again."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._models.current is not None and await asyncio.to_thread(lambda: self._models.is_behind):
                await self._reload("the watch")

    def _start(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _drain(self) -> None:
        self._service.draining = self._guard.draining = True


class _Server(uvicorn.Server):
    """Ends without losing a request that reached it, and with exit code 0 where it was asked to end by SIGTERM."""

    def __init__(self, config: uvicorn.Config, drain: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain = drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called between any two instructions of the main thread."""
        self._drain()
        if sig == signal.SIGTERM:
            self.should_exit = True
        else:
            super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """The number that asyncio takes for both is one's for the kernel's queue, another for a turn of the loop."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """First nobody new: who waits in the kernel's queue is let in before the door closes. Then those who are in
        get a moment to send what is on its way; each answer closes its connection."""
        for listener in sockets or []:
            listener.listen(0)
        await asyncio.sleep(0.1)
        for server in self.servers:
            server.close()
        until = asyncio.get_running_loop().time() + _GRACE_S
        while self.server_state.connections and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


def _shown(listener: socket.socket) -> tuple[str, int]:
    host, port = listener.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port
