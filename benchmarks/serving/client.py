"""A client that is a socket and little more: what it measures is the server's time."""

import socket

from tests.serving import Served

_PIECE_BYTES = 1 << 18


class Connection:
    """One that is kept."""

    def __init__(self, server: Served) -> None:
        self._socket = socket.create_connection((server.host, server.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def segment(self, picture: bytes) -> dict[str, str]:
        """The headers of its answer, once all of it is there."""
        head = f"POST /segment HTTP/1.1\r\nhost: a\r\ncontent-type: image/png\r\ncontent-length: {len(picture)}\r\n\r\n"
        self._socket.sendall(head.encode() + picture)
        answer, end = b"", -1
        while end < 0:
            answer += self._more()
            end = answer.find(b"\r\n\r\n")
        lines = answer[:end].decode().split("\r\n")
        if " 200 " not in lines[0]:
            raise RuntimeError(answer.decode())
        headers = dict(line.split(": ", 1) for line in lines[1:])
        left = end + 4 + int(headers["content-length"]) - len(answer)
        while left > 0:
            left -= len(self._more())
        return headers

    def close(self) -> None:
        """For good."""
        self._socket.close()

    def _more(self) -> bytes:
        if not (piece := self._socket.recv(_PIECE_BYTES)):
            raise ConnectionError("the server has closed")
        return piece
