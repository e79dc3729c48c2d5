"""The pipeline's commands. Light: `segpipe --help` loads them all, and what they need is imported inside each."""

import typer

from stages.cli import compress, judge, run, start

app = typer.Typer()
for part in (start, run, compress, judge):
    app.add_typer(part.app)
app.add_typer(judge.benchmarks, name="benchmark")
app.add_typer(start.data_commands, name="data")
