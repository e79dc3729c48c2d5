"""A Ray cluster on this machine: each node a session of processes, which is killed or frozen as a whole."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.children import wait_until

_START = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats")
_STORE_BYTES = 100 << 20
_TRIES = 4  # Ray gives the helpers of a node little time to start, which a busy machine may not manage


@dataclass(frozen=True)
class Node:
    """Everything that one `ray start` began."""

    session: int

    def processes(self, named: bytes = b"") -> list[int]:
        """Those whose command line has these bytes."""
        return in_session(self.session, named)

    def signal(self, number: int) -> None:
        """To each of them."""
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def end(self) -> None:
        """As when the power goes; what is started meanwhile goes too."""
        while self.processes():
            self.signal(signal.SIGKILL)
            time.sleep(0.05)


def in_session(session: int, named: bytes = b"") -> list[int]:
    """Living processes of a session, by what their command line has."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            line = (place / "cmdline").read_bytes()
            if line and named in line and os.getsid(int(place.name)) == session:
                found.append(int(place.name))
    return found


class Cluster:
    """A head, which works too, and nodes that come and go. Its token is in this process's environment."""

    def __init__(self, folder: Path) -> None:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._folder, self._children = folder, list[subprocess.Popen[str]]()
        self._frozen: list[Node] = []
        self.nodes: list[Node] = []
        """The head first."""

    def start(self) -> Node:
        """The head."""
        return self._start(
            "--head", "--port=0", "--include-dashboard=false", "--no-monitor", f"--temp-dir={self._folder}"
        )

    def processes(self, named: bytes) -> list[int]:
        """Of all nodes."""
        return [process for node in self.nodes for process in node.processes(named)]

    @property
    def address(self) -> str:
        """For `--address`; Ray writes it down a moment after it says that it runs."""
        noted = self._folder / "ray_current_cluster"
        wait_until(lambda: noted.exists() and bool(noted.read_text()))
        return noted.read_text().strip()

    def add(self) -> Node:
        """Another node."""
        return self._start(f"--address={self.address}")

    def remove(self, node: Node) -> None:
        """As when its power goes."""
        self.nodes.remove(node)
        node.end()

    def freeze(self, node: Node) -> None:
        """As when it falls silent: it answers nobody, and nobody is told."""
        self.nodes.remove(node)
        self._frozen.append(node)
        node.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """What was frozen goes on with what it was doing; Ray ends a node that it took for dead."""
        for node in self._frozen:
            node.signal(signal.SIGCONT)

    def end(self) -> None:
        """All nodes, the head last."""
        for child in reversed(self._children):
            Node(child.pid).end()  # frozen ones too, and one whose start was broken off
            child.wait()

    def _start(self, *options: str) -> Node:
        for _ in range(_TRIES):
            log = self._folder / f"start{len(self._children)}.log"
            with log.open("w") as file:
                more = [
                    "--num-cpus=1",
                    "--include-log-monitor=false",
                    f"--object-store-memory={_STORE_BYTES}",
                    "--dashboard-agent-listen-port=0",
                ]
                child = subprocess.Popen(
                    [*_START, *options, *more], stdout=file, stderr=file, text=True, start_new_session=True
                )
            self._children.append(child)
            wait_until(lambda log=log, child=child: child.poll() is not None or "runtime started" in log.read_text())  # type: ignore[misc]
            node = Node(child.pid)
            if child.poll() is None:
                self.nodes.append(node)
                return node
            node.end()
        raise AssertionError(log.read_text())


@contextmanager
def cluster() -> Iterator[Cluster]:
    """One with a head, whose folder goes with it."""
    with tempfile.TemporaryDirectory(prefix="segpipe-ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.end()
