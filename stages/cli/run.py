"""Commands that make a run's artifacts: its stages one by one, or all that are stale."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segpipe.artifacts import BUILD, CHECKPOINT, END_TO_END_GRAPH, EXPORT, FP32_GRAPH
from segpipe.cli.conventions import PIPELINE, Force, Run, Sets
from segpipe.console import print_lines
from stages.cli.conventions import run_config_stages
from stages.table import FIRST, LAST, NAMES, Name

if TYPE_CHECKING:
    from segpipe.rundir.directory import RunDirectory

_log = logging.getLogger(__name__)

app = typer.Typer()

Task = Literal["semantic", "instances"]


@app.command()
def run(
    run: Run,
    *,
    first: Annotated[
        Name, typer.Option("--from", help="Stage to start with; those before are taken as they are.")
    ] = FIRST,
    until: Annotated[Name, typer.Option("--until", help="Stage to end with.")] = LAST,
    force: Force = False,
    sets: Sets = None,
    auto_islands: Annotated[
        bool,
        typer.Option(
            "--auto-islands",
            help="Search for the fewest layers that must stay in FP32 for the FP16 network to pass the release gate.",
        ),
    ] = False,
) -> None:
    """Run, in order, the stages whose settings or inputs have changed.

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
    _require_trained(run, sets, False)
    print(run_config_stages(run, "train", "train", force, sets).artifact("train", CHECKPOINT))


@app.command()
def adopt(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Take a network that is trained already ([model] trained) and measure it on val and test."""
    _require_trained(run, sets, True)
    finished = run_config_stages(run, "train", "train", force, sets)
    _tell_the_end(finished, "train")
    print(finished.artifact("train", CHECKPOINT))


@app.command()
def export(
    run: Run,
    force: Force = False,
    sets: Sets = None,
    end_to_end: Annotated[
        bool,
        typer.Option(
            "--end-to-end",
            help="Also write model.e2e.onnx: one graph from frame to mask and confidence, for other programs.",
        ),
    ] = False,
) -> None:
    """Export the trained network to ONNX, in FP32 and in FP16."""
    asked = ['export.end_to_end="confidence"'] if end_to_end else []
    finished = run_config_stages(run, EXPORT, EXPORT, force, [*(sets or []), *asked])
    print(finished.artifact(EXPORT, FP32_GRAPH))
    if END_TO_END_GRAPH in finished.record(EXPORT).outputs:
        print(finished.artifact(EXPORT, END_TO_END_GRAPH))


@app.command()
def build(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Build a TensorRT engine for each of `build.targets` in segpipe.toml."""
    from segpipe.runtime.opening import engines_of

    finished = run_config_stages(run, BUILD, BUILD, force, sets)
    for name in engines_of(finished):
        print(finished.artifact(BUILD, name))


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="Run directory, created where missing.")] = Path("runs/demo"),
    task: Annotated[
        Task | None, typer.Option(help="What the network tells: a class for every pixel, or things one by one.")
    ] = None,
    sets: Sets = None,
) -> None:
    """Train, export, build, validate, measure and use a small network on synthetic data."""
    from stages.cli.settings import settle
    from stages.demo import run_demo

    settle(run, sets or [])
    print_lines(run_demo(run, sets or [], task))


def _require_trained(run: Path, sets: list[str] | None, wanted: bool) -> None:
    """Nothing is trained by the name of adopting, and nothing adopted by the name of training."""
    from segpipe.errors import ConfigError, word
    from stages.config.file import load_config

    file = load_config(run, sets or []).model.trained
    if file and not wanted:
        hint = f"`segpipe adopt {word(run)}`; to train on from these weights, name them in [model] weights instead"
        raise ConfigError(f"[model] trained = '{file}' is trained already", hint=hint)
    if wanted and not file:
        hint = 'set trained = "weights.pth" in [model], and name to the network that they are of'
        raise ConfigError(f"{run / 'segpipe.toml'} names no trained weights", hint=hint)


def _tell_the_end(finished: "RunDirectory", last: Name) -> None:
    """What the run reached and what to do now, for people: stdout holds the path alone, for scripts."""
    from stages.results.ending import figure_lines, next_line

    lines = figure_lines(finished, last)
    if last == LAST and (report := _fresh_report(finished)):
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


def _find_islands(run: Path, first: Name, sets: list[str] | None) -> list[str]:
    """The --set overrides that name the islands, after training and exporting what is stale."""
    from stages.config.file import load_config
    from stages.validate.auto_islands import find_islands

    finished = run_config_stages(run, min(first, EXPORT, key=NAMES.index), EXPORT, False, sets)
    return [find_islands(finished, load_config(run, sets or []), run)]
