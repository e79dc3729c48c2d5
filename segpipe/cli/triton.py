"""The command that writes a model repository for Triton Inference Server."""

from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import RunOrBundle

app = typer.Typer()


@app.command()
def triton(
    run: RunOrBundle,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the model repository; it may hold other models.")],
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "segpipe",
    gpu: Annotated[bool, typer.Option("--gpu", help="Run instances on each GPU instead of the CPU.")] = False,
    backend: Annotated[
        str | None,
        typer.Option(help="What runs the network on the server; by default the best there, of its GPU or its CPU."),
    ] = None,
    instances: Annotated[int, typer.Option(min=1, help="How many run at once; with --gpu on each GPU.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads of each instance on a CPU; 0 takes one a core.")] = 0,
    max_batch: Annotated[int, typer.Option(min=1, help="The most frames that the server puts into one call.")] = 8,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused at once.")] = 64,
    bare: Annotated[
        bool,
        typer.Option("--bare", help="Add models of the network alone, for clients with pre- and post-processing."),
    ] = False,
) -> None:
    """Write a model repository for Triton Inference Server; what is there gets a further version."""
    from segpipe.artifacts import FAMILIES, artifact_named
    from segpipe.rundir.directory import RunDirectory
    from segpipe.triton.config import Copies
    from segpipe.triton.repository import Request, write_repository

    chosen = backend or ("gpu" if gpu else "cpu")
    if chosen not in FAMILIES and artifact_named(chosen).needs_gpu != gpu:
        raise typer.BadParameter(f"--backend {chosen} runs {'on a CPU' if gpu else 'on GPUs, with --gpu'}")
    request = Request(name, chosen, threads, Copies(instances, gpu, max_batch, queue), bare)
    for version in write_repository(RunDirectory(run), out, request):
        print(version)
