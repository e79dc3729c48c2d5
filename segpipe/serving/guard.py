"""Guard: what every request passes before the application sees it. Owns token, size, slow clients, request ids.

A framework's own checks come after the body was read: too late for one that is too large, or from nobody.
"""

import asyncio
import hmac
import json
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from segpipe.serving.line import FullError
from segpipe.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

PICTURES = "/segment"
"""What takes a place in line, by POST."""
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/metrics"})
"""Answered without the token: probes and Prometheus have none, and a page asks for it."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_ARTIFACT = b"x-segpipe-artifact"
_PATIENCE_S = 10.0
FULL_S = 0.2  # before a 429: who comes again at once, whatever Retry-After says, takes the cores from those who wait
LEAST_BYTES_PER_S = 16 * 1024  # on average, after that time
GONE = 499  # as nginx calls it: the client went before its answer


@dataclass(frozen=True)
class Limits:
    """What a request may be and bring."""

    token: bytes = b""
    max_bytes: int = 64 << 20
    held_bytes: int = 1 << 30
    """Of all bodies together."""


class _RefusedError(Exception):
    def __init__(self, status: int, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """An ASGI application around another, which gets each body whole. In one event loop."""

    def __init__(
        self,
        app: App,
        limits: Limits,
        metrics: Metrics,
        artifact: Callable[[], str],
        require_room: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._limits, self._metrics, self._artifact = app, limits, metrics, artifact
        self._require_room = require_room
        self._held_bytes = 0
        self.draining = False
        """Whether every answer closes its connection."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            raise RuntimeError(f"only HTTP is served, not {scope['type']}")
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        body: list[bytes] = []
        answer = _Answer(send, self._own_headers(request_id))
        try:
            self._require_token(scope["path"], headers)
            await self._require_place(scope)
            await self._read(receive, headers, body)
            await self._app(scope, _whole(b"".join(body), receive), answer)
        except _RefusedError as refused:
            await answer.refuse(refused)
        finally:
            self._held_bytes -= sum(map(len, body))
            self._metrics.count_request(answer.status, answer.artifact)

    def _own_headers(self, request_id: bytes) -> dict[bytes, bytes]:
        own = {b"x-request-id": request_id}
        if artifact := self._artifact():
            own[_ARTIFACT] = artifact.encode()
        return {**own, b"connection": b"close"} if self.draining else own

    def _require_token(self, path: str, headers: dict[bytes, bytes]) -> None:
        token = self._limits.token
        if not token or path in OPEN_PATHS:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
            asked = ((b"www-authenticate", b"Bearer"),)
            raise _RefusedError(401, "the token is wanted: send the header 'Authorization: Bearer TOKEN'", asked)

    async def _require_place(self, scope: Message) -> None:
        """Before the body is read, and not at once: refusing thousands a second takes longer than their pictures."""
        if scope["path"] == PICTURES and scope["method"] == "POST":
            try:
                self._require_room()
            except FullError as full:
                await asyncio.sleep(FULL_S)
                again = ((b"retry-after", str(full.retry_after_s).encode()),)
                raise _RefusedError(429, str(full), again) from None

    async def _read(self, receive: Receive, headers: dict[bytes, bytes], body: list[bytes]) -> None:
        """All of the body, counted as it comes: a chunked one says no length."""
        if (length := headers.get(b"content-length", b"")).isdigit():
            self._require_size(int(length))
        clock, seen, more = asyncio.get_running_loop().time, 0, True
        begun = clock()
        while more:
            try:
                async with asyncio.timeout_at(begun + _PATIENCE_S + seen / LEAST_BYTES_PER_S):
                    message = await receive()
            except TimeoutError:
                raise _RefusedError(408, f"{seen} bytes came in {clock() - begun:.0f} s: that is too slow") from None
            if message["type"] == "http.disconnect":
                raise _RefusedError(GONE, "the client has gone")
            chunk = message.get("body", b"")
            seen += len(chunk)
            self._require_size(seen)
            body.append(chunk)
            self._held_bytes += len(chunk)
            if self._held_bytes > self._limits.held_bytes:
                raise _RefusedError(429, "too many bytes of requests are held already", ((b"retry-after", b"1"),))
            more = message.get("more_body", False)

    def _require_size(self, size_bytes: int) -> None:
        if size_bytes > self._limits.max_bytes:
            raise _RefusedError(413, f"the body has more than the {self._limits.max_bytes} bytes that are taken")


class _Answer:
    """`send` with our headers on the answer; remembers its status."""

    def __init__(self, send: Send, own: dict[bytes, bytes]) -> None:
        self._send, self._own = send, own
        self.status, self.artifact = GONE, own.get(_ARTIFACT, b"").decode()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = self._own | dict(message.get("headers", ()))
            self.status, self.artifact = message["status"], headers.get(_ARTIFACT, b"").decode()
            message = {**message, "headers": [*headers.items()]}
        await self._send(message)

    async def refuse(self, refused: _RefusedError) -> None:
        """In the words and the form of the application's own errors."""
        if refused.status == GONE:
            return
        body = json.dumps({"detail": refused.detail}).encode()
        length = str(len(body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), *refused.headers]
        await self({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


def _whole(body: bytes, receive: Receive) -> Receive:
    """A body that is all there; what comes after it is that the client has gone."""
    left = [body]

    async def next_message() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return next_message
