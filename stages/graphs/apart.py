"""Work on a stranger's ONNX in a process of its own: a crash, a hang or a memory blow-up there is an error here."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from segpipe import errors
from segpipe.errors import InputError, SegpipeError

_WORDED = 3  # the child's exit code for an error that it could word; Python's own for a traceback is 1
_HINT = "the file is damaged or made to do harm: export it again"
_BOOT = "import sys; sys.path[:] = {path!r}; from stages.graphs.apart import serve; serve()"


@dataclass(frozen=True)
class ChildLimits:
    """What the child may use. Memory is what it allocates, not the files it maps."""

    cpu_s: int
    wall_s: int
    memory_bytes: int | None = None
    """None where honest work needs what the machine has."""


def call_apart(work: Callable[..., bytes], subject: str, limits: ChildLimits, **arguments: Any) -> bytes:
    """`work(**arguments)` in a child. Arguments are JSON; `subject` begins the error when the child does not survive.

    A fresh interpreter, not a fork: the caller may have threads, and the child needs nothing of what it has loaded.
    """
    order = {
        "work": [work.__module__, work.__qualname__], "subject": subject,
        "limits": asdict(limits), "arguments": arguments,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _BOOT.format(path=sys.path)],
            input=json.dumps(order).encode(), capture_output=True, check=False, timeout=limits.wall_s,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # its buffers, one a core, would count as memory
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise InputError(f"{subject}: no end after {limits.wall_s} s", hint=_HINT) from None
    if done.returncode < 0:
        raise InputError(f"{subject}: {_death(-done.returncode, limits)}", hint=_HINT)
    if done.returncode == _WORDED:
        said = json.loads(done.stdout)
        raise getattr(errors, said["kind"])(said["message"], hint=said["hint"])
    if done.returncode > 0:  # a bug: it keeps its traceback
        raise RuntimeError(f"{subject}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def serve() -> None:
    """The child: an order from stdin, the answer to what was stdout. Whatever else is printed goes to stderr."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = json.load(sys.stdin.buffer)
    _submit(ChildLimits(**order["limits"]))
    try:
        result, code = _worked(order), 0
    except SegpipeError as error:
        said = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
        result, code = json.dumps(said).encode(), _WORDED
    with answer:
        answer.write(result)
    sys.exit(code)


def allow_memory(size_bytes: int) -> None:
    """How much the calling process may allocate from now on."""
    _limit(resource.RLIMIT_DATA, size_bytes)


def _submit(limits: ChildLimits) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, limits.cpu_s)
    if limits.memory_bytes is not None:
        allow_memory(limits.memory_bytes)


def _limit(kind: int, value: int) -> None:
    """As wanted, or as low as somebody has set it for this process already."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _worked(order: dict[str, Any]) -> bytes:
    module, name = order["work"]
    try:
        result: bytes = getattr(import_module(module), name)(**order["arguments"])
    except MemoryError:
        raise InputError(f"{order['subject']}: it takes far more memory than its size explains", hint=_HINT) from None
    except RecursionError:
        raise InputError(f"{order['subject']}: it is too deeply nested", hint=_HINT) from None
    return result


def _death(number: int, limits: ChildLimits) -> str:
    """What a signal says."""
    if number == signal.SIGXCPU:
        return f"no end after {limits.cpu_s} s of processor time"
    if number == signal.SIGKILL:
        return "the process that worked on it was killed, as the system does when memory runs out"
    return f"the process that worked on it crashed ({signal.Signals(number).name})"
