"""Before a training that would undo what `--set` gave the last one: say so, and where somebody is there, ask."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

_log = logging.getLogger(__name__)


def settle(run: Path, sets: Sequence[str]) -> None:
    """In a terminal ask whether to keep those settings in segpipe.toml; a script gets a line and what the file says."""
    from stages.config.kept import forgotten, keep
    from stages.train.processes import rank

    lost = None if rank() else forgotten(run, sets)
    if lost is None:
        return
    given = ", ".join(lost.overrides)
    undone = f"train: the network was trained with --set {given}; without it, it is trained again"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        keep_it = f"to keep what is trained, repeat --set, or write it into {run / 'segpipe.toml'}"
        _log.warning("%s: %s", undone, keep_it)  # what changes is told by the training itself
        return
    _log.warning("%s (%s)", undone, "; ".join(lost.changes))
    try:
        wanted = typer.confirm(f"Keep {given}, as lines in segpipe.toml? (n trains again)", default=True, err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if wanted:
        keep(run, lost.overrides)
        _log.info("%s: wrote %s", run / "segpipe.toml", given)
