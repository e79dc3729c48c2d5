"""Commands that judge a run: the release gate, the benchmark, the report, and figures of what is deployed."""

import logging
from pathlib import Path
from typing import Annotated, Literal

import typer

from segpipe.cli.conventions import AsJson, Backend, ComputedIn, Force, Run, RunOrBundle, Sets, Unvalidated
from segpipe.console import print_json, print_lines, print_table
from stages.cli.conventions import RunByDefault, run_config_stages

_MARGIN, _SECONDS = 0.05, 60.0

_log = logging.getLogger(__name__)

app = typer.Typer()

Split = Literal["train", "val", "test"]

benchmarks = typer.Typer(
    cls=RunByDefault, no_args_is_help=True, help="Measure milliseconds per frame, beside PyTorch and ONNX Runtime."
)


@app.command()
def validate(
    run: RunOrBundle,
    *,
    force: Force = False,
    sets: Sets = None,
    hop: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Judge one backend, or 'engine', by the stored reference; needs no PyTorch."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the layer from which each deployed form differs from PyTorch.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER_RUN",
            help="Compare the figures with those of another run; exit 3 where a limit on drift fails.",
        ),
    ] = None,
) -> None:
    """Compare every deployed form of the network with PyTorch; exit 3 when the release gate fails."""
    judged_apart = hop is not None or against is not None
    if sum((hop is not None, explain, against is not None)) > 1:
        raise typer.BadParameter("--hop, --explain and --against exclude each other")
    if (force and (judged_apart or explain)) or (sets and judged_apart):
        raise typer.BadParameter("--hop, --explain and --against take no --force, and only --explain takes --set")
    if hop is not None:
        return _validate_hop(run, hop)
    if against is not None:
        return _validate_against(run, against)
    if explain:
        return _explain(run, sets)
    _refuse_bundle(run)
    return print(run_config_stages(run, "validate", "validate", force, sets).artifact("validate", "report.json"))


@benchmarks.command("run")
def benchmark(run: Run, force: Force = False, sets: Sets = None, as_json: AsJson = False) -> None:
    """Measure milliseconds per frame beside PyTorch and ONNX Runtime; the word `run` may be left out."""
    finished = run_config_stages(run, "benchmark", "benchmark", force, sets)
    from stages.benchmark.table import COLUMNS, absent_lines, remarks, rows
    from stages.results.benchmark import read_report

    text = finished.artifact_bytes("benchmark", "report.json")
    if as_json:
        return print(text.decode().rstrip())
    measured = read_report(text, f"benchmark/report.json of {run}")
    print_table(COLUMNS, rows(measured))
    for line in absent_lines(measured):
        _log.debug("%s", line)
    return print_lines(["", *remarks(measured)])


@benchmarks.command("compare")
def compare(
    a: Annotated[
        Path, typer.Argument(help="Run directory to compare with, or a benchmark's report.json.", show_default=False)
    ],
    b: Annotated[
        Path, typer.Argument(help="Run directory that must not be slower, or its report.json.", show_default=False)
    ],
    *,
    margin: Annotated[float, typer.Option(help="Share of time that B may take longer: 0.05 is 5 %.", min=0)] = _MARGIN,
    seconds: Annotated[float, typer.Option(help="Seconds after which measuring ends.", min=0.1)] = _SECONDS,
    backend: Backend = "auto",
    precision: ComputedIn = None,
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Measure two runs turn by turn; exit 3 when B is slower than the margin. Two report files: ratios, no verdict."""
    from stages.benchmark import duel
    from stages.config.file import load_config

    if not (a.is_dir() and b.is_dir()):
        if (margin, seconds, backend, precision, sets) != (_MARGIN, _SECONDS, "auto", None, None):
            raise typer.BadParameter(
                "reports are not measured: no --margin, --seconds, --backend, --precision or --set"
            )
        pairs = duel.compare_reports(a, b)
        if as_json:
            return print_json([pair.as_dict() for pair in pairs])
        return print_table(["contestant", "A p50 ms", "B p50 ms", "B / A"], [pair.row() for pair in pairs])
    terms = duel.Terms(margin, seconds, precision)
    outcome = duel.compare_runs((a, b), load_config(a, sets or []), backend, terms)
    if as_json:
        print_json(outcome.as_dict())
    else:
        print(outcome.line())
    return duel.require_within_margin(outcome, margin)


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directory; several are compared on one page.", show_default=False)
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File for the page, instead of report.html in the run or comparison.html."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run's report, or a comparison of several runs, as one self-contained HTML page."""
    from segpipe.rundir.directory import RunDirectory
    from stages.report import forms_as_dict, write_comparison, write_report

    opened = [RunDirectory(run) for run in runs]
    page = write_report(opened[0], out) if len(opened) == 1 else None
    page = page or write_comparison(opened, out or Path("comparison.html"))
    if as_json:
        return print_json({"page": str(page), "runs": [forms_as_dict(run) for run in opened]})
    return print(page)


@app.command()
def runs(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder that holds run directories, such as runs.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder, the newest first, with network, mIoU, release gate and milliseconds a frame."""
    from datetime import UTC, datetime

    from stages.results.listing import COLUMNS, list_runs

    lines = list_runs(folder)
    if as_json:
        return print_json([line.as_dict() for line in lines])
    now = datetime.now(UTC)
    return print_table(COLUMNS, [line.cells(now) for line in lines])


@app.command()
def evaluate(
    run: Run,
    split: Annotated[Split, typer.Option(help="Split of the labelled data to measure on.")] = "test",
    backend: Backend = "auto",
    precision: ComputedIn = None,
    as_json: AsJson = False,
    allow_unvalidated: Unvalidated = False,
    sets: Sets = None,
) -> None:
    """Measure the deployed network on labelled frames: mIoU, for things AP and PQ too. Needs no PyTorch."""
    from segpipe.console import frame_progress
    from segpipe.evaluate import evaluate_frames
    from segpipe.rundir.directory import RunDirectory
    from segpipe.runtime.by_task import open_segmenter
    from stages.config.file import load_config
    from stages.data import open_split
    from stages.data.check import val_serves
    from stages.data.files import require_labels
    from stages.validate import require_frames

    config, directory = load_config(run, sets or []), RunDirectory(run)
    require_frames(directory, config, run)
    require_labels(config.data, "evaluate")
    samples = open_split(config, run, split)
    used = "val split, which serves as test" if val_serves(config, run, split) else f"{split} split"
    with (
        open_segmenter(run, backend, precision=precision, allow_unvalidated=allow_unvalidated) as segmenter,
        frame_progress(len(samples)) as tick,
    ):
        figures = evaluate_frames(segmenter, map(samples.sample, range(len(samples))), tick)
    if as_json:
        return print_json(figures.as_dict())
    print_table(figures.columns, figures.rows())
    frames = "1 frame" if figures.frames == 1 else f"{figures.frames} frames"
    return print(f"{figures.summary()} on {frames} of the {used}")


def _refuse_bundle(run: Path) -> None:
    """The gate needs what a bundle leaves out; of its artifacts each can be judged alone."""
    from segpipe.errors import InputError
    from segpipe.rundir import manifest

    if (run / manifest.FILE_NAME).is_file() and manifest.load(run).is_bundle:
        raise InputError(
            f"{run} is a bundle, which has no config (segpipe.toml)",
            hint=f"judge what it holds with `segpipe validate {run} --hop engine`, or give the run it was made from",
        )


def _validate_hop(run: Path, hop: str) -> None:
    from segpipe.rundir.directory import RunDirectory
    from stages.validate.without_pytorch import validate_hop

    print_lines(validate_hop(RunDirectory(run), hop))


def _validate_against(run: Path, other: Path) -> None:
    from segpipe.rundir.directory import RunDirectory
    from stages.validate.against import COLUMNS, compare_runs, refuse_drift, table

    reports = compare_runs(RunDirectory(run), RunDirectory(other))
    print_table(COLUMNS, table(reports))
    refuse_drift(reports)


def _explain(run: Path, sets: list[str] | None) -> None:
    from segpipe.rundir.directory import RunDirectory
    from stages.config.file import load_config
    from stages.validate import explain_run

    print_lines(explain_run(RunDirectory(run), load_config(run, sets or []), run))
