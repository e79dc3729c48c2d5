"""Child processes of tests: none outlives its test, whatever the test or the child does."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600
"""Waiting that long on a machine under load is no failure; longer is a hang."""


@contextmanager
def child(*command: str, env: Mapping[str, str] | None = None) -> "Iterator[subprocess.Popen[str]]":
    """A child with pipes for its output, in a session of its own; at the end the whole session is killed."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=None if env is None else {**os.environ, **env},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
