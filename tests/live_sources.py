"""Live sources for tests, on the loopback: an MPEG transport stream over TCP, and the same by a tiny RTSP server."""

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import av
from numpy.typing import NDArray

from segpipe import testing
from tests.children import PATIENCE_S

HEIGHT, WIDTH, RATE = 64, 96, 25
_PACKET, _PACKETS = 188, 7  # bytes of a transport packet; so many go into one of RTP
_SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"


def transport_stream(frames: int, height: int = HEIGHT, width: int = WIDTH) -> bytes:
    """A video of coloured blocks."""
    file = io.BytesIO()
    with av.open(file, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(testing.make_frame(height, width, number)[0], format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def decoded(content: bytes) -> list[NDArray[Any]]:
    """The frames that a client gets."""
    with av.open(io.BytesIO(content), "r", format="mpegts") as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@dataclass
class Clients:
    """What a server has seen."""

    address: str
    count: int = 0
    over: threading.Event = field(default_factory=threading.Event)


Answer = Callable[[socket.socket, Clients], None]


@contextmanager
def server(answer: Answer, scheme: str = "tcp") -> Iterator[Clients]:
    """Answers one client after the other, each in a call; closes when the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        clients = Clients(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}")

        def serve() -> None:
            while not clients.over.is_set():
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                clients.count += 1
                with client, suppress(OSError):
                    answer(client, clients)
            listening.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield clients
        finally:
            clients.over.set()
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)


def sending(content: bytes, then: Answer | None = None) -> Answer:
    """All of it at once, and then whatever else."""

    def answer(client: socket.socket, clients: Clients) -> None:
        client.sendall(content)
        if then is not None:
            then(client, clients)

    return answer


def silent(client: socket.socket, clients: Clients) -> None:
    """Holds the line and says nothing."""
    clients.over.wait(PATIENCE_S)


def rtsp(content: bytes) -> Answer:
    """OPTIONS, DESCRIBE, SETUP (inside the connection), PLAY; then the stream in RTP's packets, and the end."""

    def answer(client: socket.socket, clients: Clients) -> None:
        lines = client.makefile("rb")
        while request := lines.readline().decode():
            headers = dict(_headers(lines))
            method = request.split()[0]
            client.sendall(_reply(method, headers, clients.address))
            if method == "PLAY":
                break
        for number, start in enumerate(range(0, len(content), _PACKET * _PACKETS)):
            payload = content[start : start + _PACKET * _PACKETS]
            packet = struct.pack(">BBHII", 0x80, 33, number & 0xFFFF, number * 100, 7) + payload
            client.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            time.sleep(0.001)

    return answer


def _headers(lines: io.BufferedReader) -> Iterator[tuple[str, str]]:
    while line := lines.readline().decode().strip():
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def _reply(method: str, headers: dict[str, str], address: str) -> bytes:
    more, body = "", ""
    if method == "OPTIONS":
        more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
    elif method == "DESCRIBE":
        body, more = _SDP, f"Content-Base: {address}/\r\nContent-Type: application/sdp\r\n"
    elif method == "SETUP":
        more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
    reply = f"RTSP/1.0 200 OK\r\nCSeq: {headers.get('cseq', '0')}\r\n{more}Content-Length: {len(body)}\r\n\r\n{body}"
    return reply.encode()
