"""The command that serves a run or bundle over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import Backend, ComputedIn, RunOrBundle, Unvalidated
from segpipe.errors import BackendMissingError

app = typer.Typer()
_SERVING = {"fastapi", "prometheus_client", "python_multipart", "starlette", "uvicorn"}


@app.command()
def serve(
    run: RunOrBundle,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that requests have to bring; needed for POST /reload.")
    ] = None,
    max_bytes: Annotated[int, typer.Option(min=1, help="Refuse requests with a larger body.")] = 64 << 20,
    max_megapixels: Annotated[
        int, typer.Option(min=1, help="Refuse pictures of more megapixels, before they are decoded.")
    ] = 64,
    queue: Annotated[int, typer.Option(min=0, help="Pictures that may wait; the next one is answered 429.")] = 16,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look each second whether RUN has changed, or its link, and open it anew.")
    ] = False,
    shadow: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of pictures that the FP32 graph answers too, to count what differs."),
    ] = 0.0,
    backend: Backend = "auto",
    precision: ComputedIn = None,
    allow_unvalidated: Unvalidated = False,
    ray_config: Annotated[
        Path | None,
        typer.Option(help="Serve nothing: write this file, with which Ray Serve does the same in several processes."),
    ] = None,
) -> None:
    """Serve masks over HTTP from one process, until SIGTERM or Ctrl-C; prints the address it listens on."""
    if watch and ray_config:
        raise typer.BadParameter("--watch is for one process: replicas of Ray take another model by user_config")
    try:
        from segpipe.serving.ray_file import Arguments, UserConfig, write_ray_file
        from segpipe.serving.server import Settings, serve
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _SERVING:
            raise
        raise BackendMissingError(f"this needs {error.name}", hint="pip install 'segpipe[serve]'") from None
    opened = UserConfig(
        run=run, backend=backend, precision=precision, allow_unvalidated=allow_unvalidated,
        max_megapixels=max_megapixels, shadow=shadow,
    )  # fmt: skip
    if ray_config:
        arguments = Arguments(token_file=token_file, max_bytes=max_bytes)
        write_ray_file(ray_config, opened, arguments, (host, port), queue)
        print(ray_config)
    else:
        serve(Settings(opened.source(threads=0), host, port, token_file, max_bytes, queue, watch))
