"""Ctrl-C at every place of the code under test where Python looks for signals, one place after the other."""

import dis
import sys
from functools import cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

_LOOKS = frozenset({"RESUME", "JUMP_BACKWARD", "CALL", "CALL_KW", "CALL_FUNCTION_EX"})  # CPython 3.11 to 3.13


class Interrupt:
    """Raises KeyboardInterrupt at the place with this number, in whatever the block calls in this thread."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.where = ""
        """Where it was raised; empty while the block has fewer places."""

    def __enter__(self) -> "Interrupt":
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
            self._left -= 1
            if self._left < 0:
                self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._step


@cache
def _places(code: CodeType) -> frozenset[int]:
    instructions = list(dis.get_instructions(code))
    return frozenset(after.offset for one, after in pairwise(instructions) if one.opname in _LOOKS)
