"""Commands that start a run and make its artifacts."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segpipe.cli.conventions import PIPELINE, Force, Run, Sets, Stage, run_config_stages
from segpipe.console import print_lines

if TYPE_CHECKING:
    from segpipe.rundir.directory import RunDirectory

_log = logging.getLogger(__name__)

app = typer.Typer()

Template = Literal["demo", "folder", "camvid", "camvid-cpu", "cityscapes", "voc", "pet"]


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(help="Where the run will live.", show_default=False)],
    template: Annotated[Template, typer.Option(help="What to start from.")] = "folder",
) -> None:
    """Write a commented segpipe.toml into a new run directory."""
    from stages.config.starter import write_starter

    print(path := write_starter(directory, template))
    command = f"segpipe run {directory}" if template == "demo" else f"segpipe data check {directory}"
    edit = "" if template == "demo" else f"edit [data] root{' and classes' * (template == 'folder')} in {path}, then "
    _log.info("next        %s%s", edit, command)


@app.command()
def run(
    run: Run,
    *,
    first: Annotated[Stage, typer.Option("--from", help="First stage.")] = "train",
    until: Annotated[Stage, typer.Option("--until", help="Last stage.")] = "benchmark",
    force: Force = False,
    sets: Sets = None,
    auto_islands: Annotated[
        bool, typer.Option("--auto-islands", help="Keep in FP32 what the release gate needs, and no more.")
    ] = False,
) -> None:
    """Run the stages that are stale, in order.

    A training that was given --set and is not given it again would run anew: in a terminal you are asked whether to
    keep those settings in segpipe.toml; a script gets one warning, and the file's settings are used.
    """
    islands = _find_islands(run, first, sets) if auto_islands else []
    finished = run_config_stages(run, first, until, force, [*(sets or []), *islands])
    _tell_the_end(finished, until)
    print(run)


@app.command()
def train(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Train the network, or continue a training that was cut short."""
    print(run_config_stages(run, "train", "train", force, sets).artifact("train", "model.safetensors"))


@app.command()
def export(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Export the trained network to ONNX, in FP32 and in FP16."""
    print(run_config_stages(run, "export", "export", force, sets).artifact("export", "model.onnx"))


@app.command("import")
def import_model(
    model: Annotated[Path, typer.Argument(help="Somebody else's ONNX file.", show_default=False)],
    contract: Annotated[Path, typer.Option(help="What its input and output mean: a contract.toml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory to start.")],
) -> None:
    """Start a run from an ONNX file; `segpipe run RUN` does the rest."""
    from stages.import_model import run

    print(run(out, model, contract))


@app.command()
def build(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Build the TensorRT engines in build.targets."""
    from segpipe.runtime.opening import engines_of

    finished = run_config_stages(run, "build", "build", force, sets)
    for name in engines_of(finished):
        print(finished.artifact("build", name))


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="Run directory.")] = Path("runs/demo"),
    sets: Sets = None,
) -> None:
    """Train, export, build, validate, measure and use a small network on synthetic data."""
    from segpipe.cli.settings import settle
    from stages.demo import run_demo

    settle(run, sets or [])
    print_lines(run_demo(run, sets or []))


def _tell_the_end(finished: "RunDirectory", last: Stage) -> None:
    """What the run reached and what to do now, for people: stdout holds the path alone, for scripts."""
    from stages.results.ending import figure_lines, next_line

    lines = figure_lines(finished, last)
    if last == "benchmark" and (report := _fresh_report(finished)):
        lines.append(f"report      {report}")
    for line in (*lines, next_line(finished, last)):
        _log.info("%s", line)


def _fresh_report(finished: "RunDirectory") -> Path | None:
    """The report, written where the run has changed since; none where its packages are not installed."""
    try:
        from stages.report import fresh_report
    except ModuleNotFoundError as error:
        if error.name not in PIPELINE:
            raise
        return None
    return fresh_report(finished)


def _find_islands(run: Path, first: Stage, sets: list[str] | None) -> list[str]:
    """The --set overrides that name the islands, after training and exporting what is stale."""
    from stages.config.file import load_config
    from stages.validate.auto_islands import find_islands

    finished = run_config_stages(run, first if first in {"train", "export"} else "export", "export", False, sets)
    config = load_config(run, sets or [])

    def open_bench() -> Any:
        from stages.validate.explaining.trials import Bench

        return Bench(finished, config, run).judge

    return [find_islands(finished, config, run, open_bench)]
