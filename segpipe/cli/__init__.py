"""The command line. Light by itself, so that Ctrl-C is one line from the first moment on."""

import sys
from typing import TYPE_CHECKING, Any

from segpipe.cli.interrupted import say_interrupted

if TYPE_CHECKING:
    from segpipe.cli.commands import app as app


def main() -> None:
    """Entry point of the `segpipe` script."""
    try:
        from segpipe.cli.commands import run

        run()
    except KeyboardInterrupt:
        sys.exit(say_interrupted())


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'segpipe.cli' has no attribute {name!r}")
    from segpipe.cli.commands import app

    return app
