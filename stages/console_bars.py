"""A bar on stderr, where that is a terminal, for what takes long and is counted."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track

_T = TypeVar("_T")


def counted(label: str, items: Iterable[_T], count: int) -> Iterator[_T]:
    """The items, with a bar that fills as they are taken and goes at the end."""
    hidden = not sys.stderr.isatty()
    yield from track(items, label, total=count, console=Console(stderr=True), transient=True, disable=hidden)
