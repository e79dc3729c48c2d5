"""The driver on host memory as seen from a process that runs on it: its counts, and failures that a test plans."""

import ctypes
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tests.host_driver.build import HERE

INVALID_VALUE, ILLEGAL_ADDRESS = 1, 700  # CUresult
MEMORY_BYTES = 2 << 30
_HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def is_here() -> bool:
    """Whether this process runs on the driver of host memory."""
    return HERE in os.environ


@cache
def library() -> ctypes.CDLL:
    """The driver. PyCUDA is bound to it lazily: it names some hundred functions that nobody here calls."""
    sys.setdlopenflags(os.RTLD_LAZY)
    found = ctypes.CDLL(os.environ[HERE], ctypes.RTLD_GLOBAL)
    found.host_driver_report.restype = ctypes.c_char_p
    found.host_driver_limit.argtypes = (ctypes.c_size_t,)
    found.cuLaunchHostFunc.argtypes = (ctypes.c_void_p, _HostFunction, ctypes.c_void_p)
    return found


def report() -> dict[str, Any]:
    """Calls by name and bytes copied since the last report; what is alive; what was done wrong."""
    return json.loads(library().host_driver_report())


def calls_of(work: Callable[[], object]) -> dict[str, int]:
    """The driver's calls that some work makes."""
    report()
    work()
    return report()["calls"]


@contextmanager
def failing(name: str, status: int) -> Iterator[None]:
    """A driver function (`*` for all but the context's) fails for a while."""
    library().host_driver_fail(name.encode(), status)
    try:
        yield
    finally:
        library().host_driver_fail(name.encode(), 0)


def forget() -> None:
    """A lost device's memory is gone: nothing is alive any more."""
    library().host_driver_forget()


@contextmanager
def memory_left(size_bytes: int) -> Iterator[None]:
    """The GPU has so much free memory for a while."""
    library().host_driver_limit(report()["live"]["device_bytes"] + size_bytes)
    try:
        yield
    finally:
        library().host_driver_limit(MEMORY_BYTES)


class Queue:
    """Work in Python on a driver's stream: it runs at once, or is recorded by a capture."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._work: dict[int, Callable[[], object]] = {}
        self._numbers = itertools.count(1)
        self._run = _HostFunction(self._call)

    def put(self, stream: int, work: Callable[[], object]) -> None:
        """At its turn."""
        number = next(self._numbers)
        self._work[number] = work
        status = library().cuLaunchHostFunc(stream, self._run, number)
        assert status == 0, f"cuLaunchHostFunc gave {status}"

    def is_capturing(self, stream: int) -> bool:
        """Whether work is recorded."""
        status = ctypes.c_int()
        library().cuStreamIsCapturing(ctypes.c_void_p(stream), ctypes.byref(status))
        return status.value != 0

    def _call(self, number: int) -> None:
        try:
            self._work[number]()
        except BaseException as error:
            self.errors.append(error)  # ctypes would drop it
            raise
