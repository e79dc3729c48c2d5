"""Faults of a data set: what is wrong and what helps. Many that need the same remedy become one line."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from segpipe.errors import DataError

_NAMED = 5  # of the further frames of a line


@dataclass(frozen=True)
class Fault:
    """One broken frame, or one thing wrong with a whole split."""

    message: str
    hint: str
    name: str = field(default="", compare=False)
    """Of the frame, file or split, for lines that stand for several."""

    @classmethod
    def of(cls, error: DataError, name: str = "") -> "Fault":
        """An error that was raised for one frame or split."""
        return cls(error.message, error.hint, name)


def lines(faults: Sequence[Fault]) -> list[str]:
    """One line for each remedy: the first fault that needs it, how many more do, and the remedy."""
    kinds: dict[str, list[Fault]] = {}
    for fault in faults:
        kinds.setdefault(fault.hint, []).append(fault)
    return [_line(alike) for alike in kinds.values()]


def _line(alike: Sequence[Fault]) -> str:
    first, *others = alike
    names = ", ".join(fault.name for fault in others[:_NAMED])
    among = "among them " if len(others) > _NAMED else ""
    more = f"; {len(others)} more of this kind: {among}{names}" if others else ""
    return f"{first.message}{more}. {first.hint}"
