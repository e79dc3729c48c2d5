"""The line before the threads, and the guard's count of bytes: what is full says so, who has gone is forgotten."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest
from fastapi import HTTPException

from segpipe.serving.answers import KINDS
from segpipe.serving.guard import FULL_S, Guard, Limits
from segpipe.serving.line import FullError, GoneError, Line
from segpipe.serving.metrics import Metrics
from segpipe.serving.models import Models, Source
from segpipe.serving.protocol import _Joining
from segpipe.serving.server import listening
from segpipe.serving.service import Service
from tests.children import PATIENCE_S


def test_what_is_written_leaves_at_once() -> None:
    """Else head and body of an answer are 40 ms apart: the second waits until the first is acknowledged."""
    with listening("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_head_and_body_of_an_answer_leave_together_and_nothing_is_lost_at_the_end() -> None:
    class Sent:
        """A transport."""

        def __init__(self) -> None:
            self.seen: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.seen.append(data)

        def close(self) -> None:
            self.seen.append(b"closed")

    async def story() -> list[bytes]:
        sent = Sent()
        joining = _Joining(sent, asyncio.get_running_loop())  # type: ignore[arg-type]
        for part in (b"head", b"", b"body"):
            joining.write(part)
        await asyncio.sleep(0)
        joining.write(b"at once")
        joining.send()
        joining.write(b"last")
        joining.close()
        await asyncio.sleep(0)
        return sent.seen

    assert asyncio.run(story()) == [b"headbody", b"at once", b"last", b"closed"]


async def stays() -> None:
    """A client that waits."""
    await asyncio.Event().wait()


async def leaves() -> None:
    """A client that has gone."""


def with_a_busy_line(queue: int, then: Callable[[Line], Any]) -> Any:
    """What `then` gives while the only thread is at work."""

    async def story() -> Any:
        line, end = Line(1, queue), Event()
        busy = asyncio.create_task(line.run(end.wait, stays))
        await asyncio.sleep(0)
        try:
            return await then(line)
        finally:
            end.set()
            assert await busy
            await asyncio.to_thread(line.close)

    return asyncio.run(story())


def test_who_finds_the_line_full_is_told_when_to_come_again() -> None:
    async def third(line: Line) -> None:
        second = asyncio.create_task(line.run(lambda: 2, stays))
        await asyncio.sleep(0)
        assert (line.inside, line.waiting) == (2, 1)
        with pytest.raises(FullError) as full:
            await line.run(lambda: 3, stays)
        assert full.value.retry_after_s >= 1
        second.cancel()

    with_a_busy_line(1, third)


def test_work_that_nobody_waits_for_is_not_begun() -> None:
    begun = []

    async def gone(line: Line) -> None:
        with pytest.raises(GoneError):
            await line.run(lambda: begun.append(1), leaves)

    with_a_busy_line(1, gone)

    assert begun == []


def test_what_waits_is_done_in_its_order_by_as_many_threads_as_there_are() -> None:
    begun: list[int] = []
    meet = Barrier(2, timeout=PATIENCE_S)

    def work(number: int) -> Callable[[], int]:
        def done() -> int:
            begun.append(number)
            if number < 4:
                meet.wait()  # passed by two at a time alone
            return number

        return done

    async def story() -> list[int]:
        line = Line(2, 8)
        answers = await asyncio.gather(*(line.run(work(number), stays) for number in range(10)))
        await asyncio.to_thread(line.close)
        return answers

    assert asyncio.run(story()) == [*range(10)]
    assert {*begun[:2]} == {0, 1}
    assert {*begun[2:4]} == {2, 3}


def test_a_line_knows_for_how_long_its_oldest_work_goes_on() -> None:
    async def looked(line: Line) -> list[float]:
        while not line.oldest_s:  # until the thread has begun
            await asyncio.sleep(0.001)
        first = line.oldest_s
        await asyncio.sleep(0.01)
        return [first, line.oldest_s]

    first, second = with_a_busy_line(1, looked)

    assert 0 < first < second


def test_an_idle_line_has_no_oldest_work() -> None:
    async def story() -> list[float]:
        line = Line(2, 2)
        before = line.oldest_s
        await line.run(lambda: 1, stays)
        await asyncio.to_thread(line.close)
        return [before, line.oldest_s]

    assert asyncio.run(story()) == [0, 0]


def test_a_line_is_empty_after_errors_and_departures() -> None:
    async def story() -> int:
        line = Line(2, 2)
        for left in (stays, leaves, stays):
            with pytest.raises((ZeroDivisionError, GoneError)):
                await line.run(lambda: 1 // 0, left)
        await asyncio.to_thread(line.close)
        await asyncio.sleep(0)
        return line.inside

    assert asyncio.run(story()) == 0


def test_a_full_line_is_429_with_a_time_to_come_again(run: Path) -> None:
    models = Models(Source(run))
    models.open()

    async def answer(line: Line) -> HTTPException:
        with pytest.raises(HTTPException) as refused:
            await Service(models, line, Metrics()).answer(b"", KINDS[0], stays)
        return refused.value

    refused = with_a_busy_line(0, answer)
    models.close()

    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1


def test_bodies_together_are_bounded_and_let_go() -> None:
    sent: list[int] = []

    async def story() -> None:
        guard = Guard(application, Limits(max_bytes=100, held_bytes=150), Metrics(), lambda: "")
        inside.clear()
        first = asyncio.create_task(guard(scope(), body(100), note))
        await asyncio.sleep(0.01)
        await guard(scope(), body(100), note)
        inside.set()
        await first
        await guard(scope(), body(100), note)

    inside = asyncio.Event()

    async def application(_: Any, receive: Any, send: Any) -> None:
        await inside.wait()
        await send({"type": "http.response.start", "status": 200})

    async def note(message: Any) -> None:
        if message["type"] == "http.response.start":
            sent.append(message["status"])

    asyncio.run(story())

    assert sent == [429, 200, 200]


def test_who_finds_no_room_is_refused_before_the_body_is_read_and_not_at_once() -> None:
    sent: list[Any] = []

    async def refused(line: Line) -> float:
        begun = asyncio.get_running_loop().time()
        guard = Guard(nobody, Limits(), Metrics(), lambda: "", line.require_room)
        await guard(scope(), nobody, note)
        return asyncio.get_running_loop().time() - begun

    async def nobody(*_: Any) -> Any:
        raise AssertionError("nobody is asked for anything more")

    async def note(message: Any) -> None:
        sent.append(message)

    taken_s = with_a_busy_line(0, refused)

    assert sent[0]["status"] == 429
    assert int(dict(sent[0]["headers"])[b"retry-after"]) >= 1
    assert b"0 pictures wait already" in sent[1]["body"]
    assert taken_s >= FULL_S


def scope() -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": "/segment", "headers": []}


def body(size_bytes: int) -> Any:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(size_bytes), "more_body": False}

    return receive
