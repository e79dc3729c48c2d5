"""How the CLI speaks: results on stdout, everything else on stderr, known errors as one line."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from segpipe.errors import SegpipeError

_UNFOLDED = 100_000  # columns
_LONGEST_ERROR = 4000  # characters: names in a stranger's file have no limit


class _StderrHandler(logging.Handler):
    """Messages to whatever stderr is now: a progress bar may have put itself in front."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


class _OneLine(logging.Formatter):
    """A message is one line whatever names are in it: a file's could forge a second one. A traceback keeps its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return _printable(" ".join(super().formatMessage(record).splitlines()))


def start_logging(verbose: bool) -> None:
    """Show the messages of segpipe and its stages."""
    handler = _StderrHandler()
    handler.setFormatter(_OneLine("%(message)s"))
    for name in ("segpipe", "stages"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    if not verbose:  # read when OpenCV is loaded, which is later; what it cannot read is told by errors
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


def print_error(error: SegpipeError) -> None:
    """One line: what is wrong, and the next action."""
    line = plain(f"error: {error}")
    print(line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}...", file=sys.stderr)


def plain(text: str) -> str:
    """One line without the control characters that a file's name or a graph's may hold: a terminal would obey them."""
    return _printable(" ".join(text.split()))


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in line)


def print_json(value: Any) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """For people: folded to a terminal's width, never cut; one line a row where no terminal is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(plain, row))
    width = None if sys.stdout.isatty() else _UNFOLDED
    Console(file=sys.stdout, width=width, highlight=False, markup=False, force_jupyter=False).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """A short text."""
    print("\n".join(lines))


@contextmanager
def frame_progress(total: int | None) -> Iterator[Callable[..., None]]:
    """A bar with frames/s on stderr; yields what to call with the number of frames just finished, or `skipped`.

    Frames that were skipped are not counted as fast ones, and what took no second has no speed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class _Speed(TextColumn):
        def render(self, task: Task) -> Text:
            seconds = task.finished_time or task.elapsed or 0
            worked = task.fields["worked"]
            return Text(f"{worked / seconds:.1f} frames/s" if worked and seconds >= 1 else "")

    columns = (BarColumn(), MofNCompleteColumn(), _Speed(""), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total, worked=0)

        def advance(frames: int, /, *, skipped: bool = False) -> None:
            worked = bar.tasks[0].fields["worked"] + (0 if skipped else frames)
            bar.update(task, advance=frames, worked=worked)

        yield advance
