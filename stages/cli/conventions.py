"""What the pipeline's commands share: one way to run stages from the command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from stages.table import FIRST, NAMES, Name

if TYPE_CHECKING:
    from segpipe.rundir.directory import RunDirectory


def run_config_stages(run: Path, first: Name, last: Name, force: bool, sets: list[str] | None) -> "RunDirectory":
    """Run what is stale from the first stage to the last, both included."""
    from stages.cli.settings import settle
    from stages.config.file import load_config
    from stages.pipeline import Selection, run_stages

    if NAMES.index(first) > NAMES.index(last):
        raise typer.BadParameter(f"--from {first} comes after --until {last}")
    if first == FIRST:
        settle(run, sets or [])
    selection = Selection(first, last, force, tuple(sets or ()))
    return run_stages(run, load_config(run, sets or []), run, selection)


class RunByDefault(TyperGroup):
    """`benchmark RUN` is `benchmark run RUN`: what is no command of the group is handed to `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)
