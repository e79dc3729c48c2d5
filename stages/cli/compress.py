"""`segpipe compress`: the command that makes a run smaller, rung by rung."""

from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import AsJson, Backend, Run, Sets
from segpipe.console import print_json, print_lines, print_table

app = typer.Typer()


@app.command()
def compress(
    run: Run,
    *,
    latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Most milliseconds a frame may take here, such as 5ms.")
    ] = None,
    macs: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Largest share of the run's multiplications: 0.5 is half.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="BYTES", help="Largest file of the network, such as 4MB.")] = None,
    backend: Backend = "auto",
    epochs: Annotated[
        int, typer.Option(help="Of further training, for each network that is pruned or trained for INT8.", min=1)
    ] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the rungs, instead of RUN-compressed beside RUN.")
    ] = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Try INT8, pruning and teaching, each as a run of its own, and keep the most accurate that fits a budget.

    Exit 3 when nothing fits. RUN itself stays as it is.
    """
    from stages.ladder.budget import budget
    from stages.ladder.climb import Terms, climb, require_kept
    from stages.ladder.source import source_of
    from stages.ladder.table import COLUMNS, remarks, rows

    wanted = budget(latency, macs, size)
    path = Path(run)
    folder = out or path.resolve().parent / f"{path.resolve().name}-compressed"
    outcome = climb(source_of(path, sets or []), Terms(wanted, folder, backend, epochs))
    if as_json:
        print_json(outcome.as_dict())
    else:
        print_table(COLUMNS, rows(outcome))
        print_lines(["", *remarks(outcome)])
    require_kept(outcome)
