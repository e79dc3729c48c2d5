"""What tests of `segpipe serve` share: the command as a process, and requests to it, also such as no library sends."""

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import testing
from tests.children import MAIN, PATIENCE_S, child, wait_until

TOKEN = "a-token-for-tests"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Answer:
    """Status, headers (lower case) and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def mask(self) -> NDArray[Any]:
        pixels = cv2.imdecode(np.frombuffer(self.body, np.uint8), -1)
        assert pixels is not None
        return pixels


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    process: "subprocess.Popen[str]"
    host: str
    port: int

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def segment(self, body: Any, accept: str = "*/*", **headers: str) -> Answer:
        return self.ask("POST", "/segment", body, {"accept": accept, **BEARER, **headers})

    def raw(self, text: bytes) -> bytes:
        """All that comes back for bytes as they are, until the server closes."""
        with socket.create_connection((self.host, self.port), timeout=PATIENCE_S) as connection:
            connection.sendall(text)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def metrics(self) -> dict[str, float]:
        """Each line of /metrics: its name with labels, and its number."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def end(self) -> tuple[int, str]:
        """By SIGTERM; the exit code and what was said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=PATIENCE_S)[1]
        return self.process.returncode, said


@contextmanager
def serving(run: Path, *options: object, before: str = "") -> Iterator[Served]:
    """`segpipe serve`, ready; `before`: code that its process runs first."""
    with child(
        sys.executable, "-c", f"{before}\n{MAIN}", "serve", str(run), "--port", "0", *map(str, options)
    ) as process:
        assert process.stdout
        assert process.stderr
        address = urlsplit(process.stdout.readline().strip())
        assert address.hostname, process.stderr.read()
        served = Served(process, address.hostname, address.port or 0)
        wait_until(lambda: served.ask("GET", "/readyz").status == 200, process)
        yield served


def picture(height: int = 40, width: int = 60, seed: int = 0) -> bytes:
    """A PNG that the tiny network knows."""
    return encoded(testing.make_frame(height, width, seed)[0])


def encoded(frame: NDArray[Any], suffix: str = ".png") -> bytes:
    """RGB as the bytes of an image file."""
    return cv2.imencode(suffix, frame[:, :, ::-1])[1].tobytes()


def token_file(folder: Path) -> Path:
    """A file that holds the token."""
    path = folder / "token"
    path.write_text(f"{TOKEN}\n")
    return path
