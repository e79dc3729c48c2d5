"""`segpipe serve` against what no client should send: a table of requests with the status and words that come back."""

import io
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.children import PATIENCE_S, wait_until
from tests.serving import BEARER, TOKEN, Served, encoded, picture, serving, token_file
from tests.test_serve import form

MAX_BYTES = 50_000
_CLAIM = b"IHDR" + struct.pack(">IIBBBBB", 1 << 24, 1 << 24, 8, 2, 0, 0, 0)
BOMB = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + _CLAIM + struct.pack(">I", zlib.crc32(_CLAIM))
HEAD = f"POST /segment HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {TOKEN}\r\nconnection: close\r\n".encode()


@pytest.fixture(scope="module")
def served(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("token")
    with serving(run, "--token-file", token_file(folder), "--max-bytes", MAX_BYTES) as server:
        yield server


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (8, 8)).save(file, "JPEG")
    return file.getvalue()


def two_pictures() -> bytes:
    file = io.BytesIO()
    first, second = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    return file.getvalue()


@dataclass(frozen=True)
class Case:
    """A request, and what comes back."""

    status: int
    said: str
    body: bytes = b""
    method: str = "POST"
    path: str = "/segment"
    headers: dict[str, str] = field(default_factory=dict)
    token: bool = True


OCTETS = {"content-type": "application/octet-stream"}
TABLE = {
    "empty": Case(400, "the body is empty"),
    "empty file of a form": Case(400, "the body is empty", *form(b"")[:1], headers=form(b"")[1]),
    "form without a file": Case(400, "holds no whole file", b"--b--\r\n", headers=form(b"")[1]),
    "form cut off": Case(400, "holds no whole file", form(b"x")[0][:-9], headers=form(b"")[1]),
    "form without a boundary": Case(400, "Missing boundary", b"x", headers={"content-type": "multipart/form-data"}),
    "form with two files": Case(400, "Too many files", form(b"x")[0][:-7] + form(b"y")[0], headers=form(b"")[1]),
    "form with a field": Case(
        400,
        "Too many fields",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--b--\r\n',
        headers=form(b"")[1],
    ),
    "no token": Case(401, "the token is wanted", picture(), token=False),
    "another token": Case(401, "the token is wanted", headers={"authorization": "Bearer x"}, token=False),
    "a token of another scheme": Case(401, "is wanted", headers={"authorization": f"Basic {TOKEN}"}, token=False),
    "a token that is not ASCII": Case(401, "is wanted", headers={"authorization": "Bearer \xfc"}, token=False),
    "no token for the model": Case(401, "is wanted", method="GET", path="/model", token=False),
    "no token for a path that is none": Case(401, "is wanted", method="GET", path="/nothing", token=False),
    "an open path with something behind": Case(401, "is wanted", method="GET", path="/healthz/", token=False),
    "an open path on the way elsewhere": Case(401, "is wanted", method="GET", path="/healthz/../model", token=False),
    "another path": Case(404, "Not Found", method="GET", path="/../../etc/passwd"),
    "an encoded path": Case(404, "Not Found", method="GET", path="/%2e%2e/%2e%2e/etc/passwd"),
    "a path with a zero byte": Case(404, "Not Found", method="GET", path="/model%00"),
    "a slash too many": Case(404, "Not Found", picture(), path="/segment/"),
    "two slashes": Case(404, "Not Found", picture(), path="//segment"),
    "another method": Case(405, "Method Not Allowed", method="GET"),
    "a method that is none": Case(405, "Method Not Allowed", method="BREW"),
    "an answer that there is not": Case(406, "image/png; show=overlay", picture(), headers={"accept": "image/gif"}),
    "too large": Case(413, f"more than the {MAX_BYTES} bytes", bytes(MAX_BYTES + 1)),
    "text": Case(415, "'text/plain' is not taken", b"x", headers={"content-type": "text/plain"}),
    "JSON": Case(415, "'application/json' is not taken", b"{}", headers={"content-type": "application/json"}),
    "a type that is none": Case(415, "is not taken", b"x", headers={"content-type": "nonsense"}),
    "no image": Case(422, "is not an image, or of a kind that is not read", b"no picture", headers=OCTETS),
    "an image cut off": Case(422, "damaged", picture()[:40], headers=OCTETS),
    "pixels cut off": Case(422, "damaged", encoded(np.zeros((99, 99, 3), np.uint8), ".bmp")[:200]),
    "too many pixels": Case(422, "16777216x16777216, more than 64000000 pixels", BOMB, headers=OCTETS),
    "ink": Case(422, "is CMYK", cmyk(), headers=OCTETS),
    "two pictures": Case(422, "holds 2 pictures", two_pictures(), headers=OCTETS),
    "grey": Case(422, "is 8-bit grey, the network takes 8-bit RGB", cv2.imencode(".png", np.eye(9))[1].tobytes()),
    "deep": Case(422, "is 16-bit RGB", cv2.imencode(".png", np.ones((9, 9, 3), np.uint16))[1].tobytes()),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_bad_request_gets_its_status_and_what_is_wrong(served: Served, name: str) -> None:
    case = TABLE[name]
    headers = {**OCTETS, **(BEARER if case.token else {}), **case.headers}

    answer = served.ask(case.method, case.path, case.body, headers)

    assert answer.status == case.status
    assert case.said in answer.json["detail"]
    assert {"x-request-id", "x-segpipe-artifact"} <= {*answer.headers}


CHUNK = b"%x\r\n%s\r\n" % (20_000, bytes(20_000))
RAW = {
    "two lengths": (b"400", HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd"),
    "a length that is none": (b"400", HEAD + b"content-length: -1\r\n\r\n"),
    "a length beside chunks": (b"", HEAD + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "more chunks than are taken": (b"413", HEAD + b"transfer-encoding: chunked\r\n\r\n" + CHUNK * 3),
    "a claim that is too large": (b"413", HEAD + b"content-length: 99999999999\r\n\r\n"),
    "10,000 bytes of headers": (b"422", HEAD + b"x-long: %s\r\ncontent-length: 1\r\n\r\nx" % (b"y" * 10_000)),
    "10,000 header lines": (b"400", HEAD + b"x: y\r\n" * 10_000 + b"\r\n"),
    "a line that never ends": (b"400", b"GET /" + b"x" * 40_000),
    "no HTTP": (b"400", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n"),
    "no host": (b"400", b"GET /healthz HTTP/1.1\r\n\r\n"),
    "a header in two lines": (b"400", HEAD + b"x: y\r\nz : v\r\n\r\n"),
}


@pytest.mark.parametrize("name", RAW)
def test_what_no_library_would_send_is_refused(served: Served, name: str) -> None:
    status, text = RAW[name]

    answered = served.raw(text)

    assert answered.startswith(b"HTTP/1.1 " + status)
    assert not answered.startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))


def test_chunks_within_the_limit_are_a_body_as_any(served: Served) -> None:
    body = picture()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body[:50]) + b"%x\r\n%s\r\n0\r\n\r\n" % (
        len(body) - 50,
        body[50:],
    )

    assert served.raw(HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunks).startswith(b"HTTP/1.1 200")


def test_a_refused_head_gets_its_answer_before_a_body_comes(served: Served) -> None:
    waiting = b"POST /segment HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    with socket.create_connection((served.host, served.port)) as connection:
        connection.sendall(waiting)

        assert connection.recv(100).startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("sent", [HEAD[:20], HEAD + b"content-length: 100\r\n\r\nhalf"], ids=["head", "body"])
def test_a_connection_that_breaks_leaves_nothing_behind(served: Served, sent: bytes) -> None:
    def held() -> float:
        return served.metrics()["segpipe_connections"]

    with socket.create_connection((served.host, served.port)) as connection:
        connection.sendall(sent)
        wait_until(lambda: held() == 2)

    wait_until(lambda: held() == 1)
    assert served.segment(picture()).status == 200


@pytest.fixture
def slow(run: Path) -> Iterator[Callable[[bytes], bytes]]:
    """A server whose patience is short; what comes back for bytes after which nothing follows."""
    hurry = "from segpipe.serving import guard, protocol\nguard._PATIENCE_S = protocol._HEAD_S = 0.3"
    with serving(run, before=hurry) as server:
        yield server.raw


def test_slow_clients_are_let_go(slow: Callable[[bytes], bytes]) -> None:
    assert slow(b"") == b""
    assert slow(b"POST /segm") == b""
    late = slow(HEAD + b"content-length: 100\r\n\r\nhalf")
    assert late.startswith(b"HTTP/1.1 408")
    assert b"4 bytes came in" in late


SMALL_BUFFERS = f"""
import socket
from segpipe.serving import protocol

def connection_made(self, transport, whole=protocol.Protocol.connection_made):
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, {1 << 16})
    whole(self, transport)

protocol._READING_S, protocol.Protocol.connection_made = 0.3, connection_made
"""


def test_an_answer_that_nobody_reads_is_given_up(run: Path) -> None:
    body = encoded(np.zeros((1500, 1500, 3), np.uint8))
    asked = HEAD + b"accept: application/octet-stream\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with serving(run, before=SMALL_BUFFERS) as server, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(PATIENCE_S)
        connection.connect((server.host, server.port))
        connection.sendall(asked)
        assert connection.recv(12) == b"HTTP/1.1 200"

        wait_until(lambda: is_alone(server))

        assert server.segment(picture()).status == 200


FEW_FILES = """
import resource
from segpipe.serving import protocol

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
protocol._HEAD_S = 600  # whoever says nothing stays
"""


def is_alone(server: Served) -> bool:
    """Whether no other client is connected."""
    with suppress(OSError, HTTPException):
        return server.metrics().get("segpipe_connections") == 1
    return False


def test_more_connections_than_files_and_reloads_at_once_leave_a_server_that_answers(run: Path, tmp_path: Path) -> None:
    def asked(connection: socket.socket) -> bytes:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        return connection.recv(12)

    with serving(run, "--token-file", token_file(tmp_path), before=FEW_FILES) as server:
        with ThreadPoolExecutor(10) as pool:
            reloads = {*pool.map(lambda _: server.ask("POST", "/reload", headers=BEARER).status, range(20))}
        with ExitStack() as stack:
            held = [stack.enter_context(socket.create_connection((server.host, server.port))) for _ in range(100)]
            for connection in held:
                connection.settimeout(PATIENCE_S)
            first, last = asked(held[0]), held[-1].recv(12)
        wait_until(lambda: is_alone(server))
        after = [server.segment(picture()).status, server.ask("POST", "/reload", headers=BEARER).status]
        code, said = server.end()

    assert {200} <= reloads <= {200, 409}
    assert (first, last) == (b"HTTP/1.1 200", b"HTTP/1.1 503")
    assert after == [200, 200]
    assert (code, "out of system resource" in said) == (0, False)
