"""A real tritonserver on the loopback, of the wheel nvidia-pytriton, whose Python backend runs our environment."""

import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tests.children import PATIENCE_S, ROOT, child, wait_until

_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class Environment:
    """The environment that holds server and clients, and nothing of ours."""

    path: Path

    @property
    def packages(self) -> Path:
        return next((self.path / "lib").glob("python3.*")) / "site-packages"

    def command(self, repository: Path, model: str, ports: list[int]) -> list[str]:
        """The server's, with one model loaded."""
        folder = self.packages / "pytriton" / "tritonserver"
        options = {
            "model-repository": repository,
            "backend-directory": self._backends(folder, repository.parent / "backends"),
            "model-control-mode": "explicit",
            "load-model": model,
            "exit-timeout-secs": 20,
            **{f"{name}-address": "127.0.0.1" for name in ("http", "grpc", "metrics")},
            **dict(zip(("http-port", "grpc-port", "metrics-port"), ports, strict=True)),
        }
        return [str(folder / "bin" / "tritonserver"), *(f"--{name}={value}" for name, value in options.items())]

    def _backends(self, folder: Path, out: Path) -> Path:
        """The Python backend beside the program that embeds our Python's version."""
        stub = folder / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / _STUB
        if not stub.is_file():
            sys.exit(f"nvidia-pytriton runs no Python {stub.parent.name}")
        (out / "python").mkdir(parents=True)
        for file in (stub, *(each for each in (folder / "backends" / "python").iterdir() if each.name != _STUB)):
            (out / "python" / file.name).symlink_to(file)
        return out

    def variables(self) -> dict[str, str]:
        """The backend finds its packages by the `python3` that is first on PATH, and takes no PYTHONPATH."""
        libraries = [sysconfig.get_config_var("LIBDIR"), str(self.packages / "nvidia_pytriton.libs")]
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(libraries),
            "PYTHONPATH": str(ROOT),
        }

    def ask(self, folder: Path, **asked: Any) -> dict[str, Any]:
        """Run the client; what it found."""
        (folder / "asked.json").write_text(json.dumps(asked))
        command = [self.path / "bin" / "python", ROOT / "tests" / "triton" / "client.py", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        if done.returncode:
            sys.exit(f"the client failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@contextmanager
def serving(environment: Environment, repository: Path, model: str, log: Path) -> Iterator[dict[str, str]]:
    """The server while the block runs, its addresses by protocol; asked to end, it must."""
    ports = free_ports(3)
    command = environment.command(repository, model, ports)
    with log.open("w") as file, _running(command, environment.variables(), file) as process:
        wait_until(lambda: process.poll() is not None or _is_ready(ports[0]))
        if process.poll() is not None:
            sys.exit(f"tritonserver ended with {process.returncode}:\n{log.read_text()}")
        yield {"http": f"127.0.0.1:{ports[0]}", "grpc": f"127.0.0.1:{ports[1]}"}
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _running(command: list[str], variables: dict[str, str], log: Any) -> Any:
    return child(*command, env=variables, stdout=log.fileno(), stderr=subprocess.STDOUT)


def _is_ready(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
