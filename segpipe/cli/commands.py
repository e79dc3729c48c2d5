"""The composition root: options -> config -> one call -> one printed path or table. Commands import what they need."""

import sys
import traceback
from typing import Annotated

import typer

from segpipe import __version__
from segpipe.cli import batch, inspect, serve, triton, use, web
from segpipe.cli.conventions import Commands, one_line
from segpipe.console import start_logging
from segpipe.entry_points import load
from segpipe.streams import prepare_streams

BUG = 70

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semantic segmentation from PyTorch to a TensorRT engine, proved at every hop to be the same network.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show debug messages on stderr as well.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version of segpipe.")
    ] = False,
) -> None:
    start_logging(verbose)


for part in (*load("segpipe.commands", typer.Typer), use.app, batch.app, serve.app, triton.app, web.app, inspect.app):
    app.add_typer(part)


def run() -> None:
    """One command, from the words of the command line to an exit code."""
    prepare_streams()
    try:
        with one_line():
            try:
                app(prog_name="segpipe")
            finally:
                sys.stdout.flush()
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except Exception:  # noqa: BLE001 - a bug: its traceback is kept, and scripts can tell it from wrong input
        traceback.print_exc()
        sys.exit(BUG)
