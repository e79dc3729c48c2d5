"""The command that writes the page for a browser."""

from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import RunOrBundle, Unvalidated

app = typer.Typer()


@app.command()
def web(
    run: RunOrBundle,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the page.")] = Path("page.html"),
    runtime: Annotated[
        Path | None,
        typer.Option(
            help="ONNX Runtime for browsers: the archive that `npm pack onnxruntime-web` leaves, or its folder."
        ),
    ] = None,
    allow_unvalidated: Unvalidated = False,
) -> None:
    """Write one HTML file that segments images, videos and a webcam in a browser, and uploads nothing."""
    from segpipe.rundir.directory import RunDirectory
    from segpipe.web.page import write_page

    print(write_page(RunDirectory(run), out, runtime, allow_unvalidated))
