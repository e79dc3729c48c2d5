"""Ctrl-C: at every place of the code under test where Python looks for signals, and after a message was logged."""

import dis
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

_LOOKS = frozenset({"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"})  # CPython 3.11 to 3.13


class Interrupt:
    """Raises KeyboardInterrupt at the place with this number, in whatever the block calls in this thread."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.passed = 0
        """Places so far."""
        self.where = ""
        """Where it was raised; empty while the block has fewer places."""

    def __enter__(self) -> "Interrupt":
        sys._getframe().f_trace_opcodes = True  # CPython 3.12 gives opcodes where a frame asked for them before
        sys.settrace(self._enter)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)

    def _enter(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is self.__exit__.__code__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti in _places(frame.f_code):
            self.passed += 1
            if self.passed > self._number:
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step


def places_in(block: Callable[[], object], most: int) -> range:
    """So many numbers for `Interrupt`, spread over all places of a block that runs through once for this."""
    counting = Interrupt(sys.maxsize)
    with counting:
        block()
    assert counting.passed, "no opcode was traced"
    return range(0, counting.passed, max(1, counting.passed // most))


@contextmanager
def pressed_after(words: str, seconds: float = 0.2) -> Iterator[None]:
    """Sends this process a SIGINT so long after a message with these words; a shell may have it ignore them."""
    timers: list[threading.Timer] = []

    class Presser(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                timers.append(threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)))
                timers[-1].start()

    presser, before = Presser(), signal.getsignal(signal.SIGINT)
    loggers = [logging.getLogger(name) for name in ("segpipe", "stages")]
    levels = [logger.level for logger in loggers]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for logger in loggers:
        logger.addHandler(presser)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
            timer.join()
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(presser)
            logger.setLevel(level)
        signal.signal(signal.SIGINT, before)


@cache
def _places(code: CodeType) -> frozenset[int]:
    instructions = list(dis.get_instructions(code))
    return frozenset(after.offset for one, after in pairwise(instructions) if one.opname in _LOOKS)
