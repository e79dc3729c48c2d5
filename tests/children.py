"""Child processes of tests: none outlives its test, whatever the test or the child does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATIENCE_S = 600
"""Waiting that long on a machine under load is no failure; longer is a hang."""
MAIN = "from segpipe.cli import main; main()"
SEGPIPE = (sys.executable, "-c", MAIN)
"""The command `segpipe` of this checkout."""


@contextmanager
def child(
    *command: str,
    stdin: int | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int | None = subprocess.PIPE,
    env: Mapping[str, str] | None = None,
) -> "Iterator[subprocess.Popen[str]]":
    """A child with pipes for its output, in a session of its own; at the end the whole session is killed."""
    with subprocess.Popen(
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
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


def wait_until(done: Callable[[], bool], process: "subprocess.Popen[str] | None" = None) -> None:
    """Until it is so; an assertion fails when the process ends before, or after all patience."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        ended = process is not None and process.poll() is not None
        assert not ended, process and process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
