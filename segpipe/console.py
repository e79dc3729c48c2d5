"""How the CLI speaks: results on stdout, everything else on stderr, known errors as one line."""

import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from segpipe.errors import SegpipeError


class _StderrHandler(logging.Handler):
    """Messages to whatever stderr is now: a progress bar may have put itself in front."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def start_logging(verbose: bool) -> None:
    """Show the messages of segpipe and its stages."""
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("segpipe", "stages"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(logging.DEBUG if verbose else logging.INFO)


def print_error(error: SegpipeError) -> None:
    """One line: what is wrong, and the next action."""
    line = f"error: {error}"
    print(" ".join(line.split()), file=sys.stderr)


def print_json(value: Any) -> None:
    """For scripts."""
    print(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """For people; as wide as it needs to be when stdout is a pipe."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False).print(table)


def print_lines(lines: Sequence[str]) -> None:
    """A short text."""
    print("\n".join(lines))
