"""The composition root: options -> config -> one call -> one printed path or table. Commands import what they need."""

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from segpipe import __version__
from segpipe.console import print_error, print_json, print_lines, print_table, start_logging
from segpipe.errors import InputError, SegpipeError

if TYPE_CHECKING:
    from segpipe.rundir import RunDirectory

BUG, INTERRUPTED = 70, 130


class _Commands(TyperGroup):
    """Turns known errors into one line and an exit code, for every command alike."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SegpipeError as error:
            print_error(error)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None


class _RunByDefault(TyperGroup):
    """`benchmark RUN` is `benchmark run RUN`: what is no command of the group is handed to `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Semantic segmentation from PyTorch to a TensorRT engine, proved at every hop to be the same network.",
)

data_commands = typer.Typer(cls=_Commands, no_args_is_help=True, help="Look at the data before training.")
app.add_typer(data_commands, name="data")

Run = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Override the config.")]
Force = Annotated[bool, typer.Option("--force", help="Run although nothing changed.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Template = Literal["demo", "folder", "camvid", "camvid-cpu", "cityscapes", "voc", "pet"]
Backend = Annotated[str, typer.Option(help="auto picks the best that is usable here.")]
Unvalidated = Annotated[bool, typer.Option("--allow-unvalidated", help="Skip the release gate, while developing.")]
Split = Literal["train", "val", "test"]
Stage = Literal["train", "export", "build", "validate", "benchmark"]


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show debug messages.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    start_logging(verbose)


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(help="Where the run will live.", show_default=False)],
    template: Annotated[Template, typer.Option(help="What to start from.")] = "folder",
) -> None:
    """Write a commented segpipe.toml into a new run directory."""
    from stages.starter import write_starter

    print(write_starter(directory, template))


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
    """Run the stages that are stale, in order."""
    islands = _find_islands(run, first, sets) if auto_islands else []
    _run_stages(run, first, until, force, [*(sets or []), *islands])
    print(run)


@app.command()
def train(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Train the network, or continue a training that was cut short."""
    print(_run_stages(run, "train", "train", force, sets).artifact("train", "model.safetensors"))


@app.command()
def export(run: Run, force: Force = False, sets: Sets = None) -> None:
    """Export the trained network to ONNX, in FP32 and in FP16."""
    print(_run_stages(run, "export", "export", force, sets).artifact("export", "model.onnx"))


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

    finished = _run_stages(run, "build", "build", force, sets)
    for name in engines_of(finished):
        print(finished.artifact("build", name))


@app.command()
def validate(
    run: Run,
    *,
    force: Force = False,
    sets: Sets = None,
    hop: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Judge 'engine' or one backend by the stored reference; needs no PyTorch."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Name the layer where each hop parts.")] = False,
    against: Annotated[Path | None, typer.Option(metavar="OTHER_RUN", help="Compare with an earlier run.")] = None,
) -> None:
    """Compare every hop with PyTorch; exit 3 when the release gate fails."""
    if sum((hop is not None, explain, against is not None)) > 1 or ((force or sets) and (hop or against)):
        raise typer.BadParameter("--hop, --explain and --against exclude each other; the first and last take no --set")
    if hop is not None:
        return _validate_hop(run, hop)
    if against is not None:
        return _validate_against(run, against)
    if explain:
        return _explain(run, sets)
    return print(_run_stages(run, "validate", "validate", force, sets).artifact("validate", "report.json"))


benchmarks = typer.Typer(cls=_RunByDefault, no_args_is_help=True, help="Measure milliseconds per frame beside others.")
app.add_typer(benchmarks, name="benchmark")


@benchmarks.command("run")
def benchmark(run: Run, force: Force = False, sets: Sets = None, as_json: AsJson = False) -> None:
    """Measure milliseconds per frame beside what a user would have otherwise; `run` may be left out."""
    finished = _run_stages(run, "benchmark", "benchmark", force, sets)
    from stages.benchmark.table import COLUMNS, remarks, rows
    from stages.benchmark_report import Report

    text = finished.artifact_bytes("benchmark", "report.json")
    if as_json:
        return print(text.decode().rstrip())
    measured = Report.model_validate_json(text)
    print_table(COLUMNS, rows(measured))
    return print_lines(["", *remarks(measured)])


@benchmarks.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(help="Run directory, or a benchmark's report.json.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="The one that must not be slower.", show_default=False)],
    *,
    margin: Annotated[float, typer.Option(help="B may take this share longer.", min=0)] = 0.05,
    seconds: Annotated[float, typer.Option(help="Time limit.", min=0.1)] = 60,
    backend: Annotated[str, typer.Option(help="auto picks the best that is usable here.")] = "auto",
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Measure two runs turn by turn; exit 3 when B is slower than the margin. Two report files: ratios, no verdict."""
    from stages.benchmark import duel
    from stages.config_file import load_config

    if not (a.is_dir() and b.is_dir()):
        return print_table(["contestant", "A p50 ms", "B p50 ms", "B / A"], duel.compare_reports(a, b))
    terms = duel.Terms(margin, seconds)
    outcome = duel.compare_runs((a, b), load_config(a, sets or []), backend, terms)
    if as_json:
        print_json(outcome.as_dict())
    else:
        print(
            f"A {outcome.a_ms:.2f} ms, B {outcome.b_ms:.2f} ms: B / A {outcome.ratio:.3f} "
            f"({outcome.low:.3f} to {outcome.high:.3f}, {outcome.rounds} rounds): {outcome.verdict}"
        )
    return duel.require_within_margin(outcome, margin)


@app.command()
def predict(
    run: Run,
    inputs: Annotated[list[str], typer.Argument(help="Images, videos, folders, globs; - reads raw frames.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks/, overlays/ ...; - writes raw masks.")],
    backend: Backend = "auto",
    overlay: Annotated[bool, typer.Option(help="Write the masks' colours laid over the images.")] = True,
    colour: Annotated[bool, typer.Option("--colour", help="Write masks in colours.")] = False,
    tiled: Annotated[bool, typer.Option(help="Cut images into overlapping tiles.")] = False,
    size: Annotated[tuple[int, int] | None, typer.Option(help="Height and width of the raw frames.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Make again what is there.")] = False,
    allow_unvalidated: Unvalidated = False,
) -> None:
    """Segment images, videos or a raw stream with the runtime that production uses."""
    from segpipe.console import frame_progress
    from segpipe.predict import Job, find_inputs, predict_files
    from segpipe.runtime.segmenter import Segmenter
    from segpipe.video import VIDEO_SUFFIXES, count_frames, predict_raw

    raw = inputs == ["-"]
    if raw != (str(out) == "-") or raw != (size is not None and min(size) > 0):
        raise typer.BadParameter("a raw stream is `- -o - --size HEIGHT WIDTH`, all three")
    files = [] if raw else find_inputs(inputs)
    total = None if raw else sum(count_frames(f) if f.suffix.lower() in VIDEO_SUFFIXES else 1 for f in files)
    with Segmenter.open(run, backend, allow_unvalidated=allow_unvalidated) as segmenter, frame_progress(total) as tick:
        if size is not None:
            predict_raw(segmenter, sys.stdin.buffer, sys.stdout.buffer, size, tick)
            return
        _, broken = predict_files(segmenter, files, Job(out, overlay, colour, tiled, force), tick)
    print(out)
    if broken:
        raise InputError(f"{len(broken)} of {len(files)} inputs could not be segmented", hint="see the lines above")


@app.command()
def bundle(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle; must be new or empty.")],
) -> None:
    """Copy what the runtime needs, and nothing else, into a folder to deploy."""
    from segpipe.bundle import write_bundle
    from segpipe.rundir import RunDirectory

    print(write_bundle(RunDirectory(run), out))


@app.command()
def evaluate(
    run: Run,
    split: Annotated[Split, typer.Option(help="Which frames.")] = "test",
    backend: Backend = "auto",
    as_json: AsJson = False,
    allow_unvalidated: Unvalidated = False,
    sets: Sets = None,
) -> None:
    """Measure what is deployed on labelled frames: mIoU and figures of each class. Needs no torch."""
    from segpipe.console import frame_progress
    from segpipe.evaluate import evaluate_frames
    from segpipe.runtime.segmenter import Segmenter
    from stages.config_file import load_config
    from stages.data import open_split

    samples = open_split(load_config(run, sets or []), run, split)
    with (
        Segmenter.open(run, backend, allow_unvalidated=allow_unvalidated) as segmenter,
        frame_progress(len(samples)) as tick,
    ):
        figures = evaluate_frames(segmenter, map(samples.sample, range(len(samples))), tick)
    if as_json:
        return print_json(figures.as_dict())
    print_table(["class", "IoU", "F1", "precision", "recall"], figures.rows())
    return print(f"mIoU {figures.scores.mean_iou:.4f}, pixel accuracy {figures.scores.pixel_accuracy:.4f}")


@app.command()
def show(run: Run, as_json: AsJson = False) -> None:
    """Show each stage's state, age, size and headline figure."""
    from datetime import UTC, datetime

    from segpipe.rundir import RunDirectory
    from segpipe.status import age, readable_size, run_status

    lines = run_status(RunDirectory(run))
    if as_json:
        return print_json([line.as_dict() for line in lines])
    now = datetime.now(UTC)
    return print_table(
        ["stage", "state", "why", "made", "size", "figure"],
        [
            [line.stage, line.state, line.why, age(line.made_utc, now) if line.made_utc else "",
             readable_size(line.size_bytes), line.headline]
            for line in lines
        ],
    )  # fmt: skip


@app.command()
def verify(run: Run, as_json: AsJson = False) -> None:
    """Hash every file again; exit 1 with the names of damaged ones."""
    from segpipe.errors import ArtifactDamagedError
    from segpipe.rundir import RunDirectory
    from segpipe.verify import verify as verify_run

    checked, findings = verify_run(RunDirectory(run))
    if as_json:
        print_json({"checked": checked, "findings": [vars(finding) for finding in findings]})
    else:
        print_table(["file", "state"], [[finding.path, finding.state] for finding in findings])
        print(f"{checked} files checked")
    damaged = [finding.path for finding in findings if finding.is_damage]
    if damaged:
        raise ArtifactDamagedError(f"{', '.join(damaged)} damaged or missing", hint=f"run `segpipe run {run}`")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several are compared.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where the page is written.")] = None,
) -> None:
    """Write a run's report, or a comparison of several runs, as one self-contained HTML page."""
    from segpipe.rundir import RunDirectory
    from stages.report import write_comparison, write_report

    if len(runs) == 1:
        print(write_report(RunDirectory(runs[0]), out))
    else:
        print(write_comparison([RunDirectory(run) for run in runs], out or Path("comparison.html")))


@app.command()
def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Measure these, listed or not.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks: stride, parameters, GFLOPs at 512x1024, and what each can do."""
    from stages.models.catalogue import COLUMNS, listed, measured

    lines = measured(names) if names else listed()
    if as_json:
        return print_json([line.as_dict() for line in lines])
    print_table(COLUMNS, [line.cells() for line in lines])
    if not names:
        print("\nsmp/<decoder>/<encoder> takes every encoder of segmentation_models_pytorch, and timm's as tu-<name>.")
    return None


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine can do, and how to get what is missing."""
    from segpipe.doctor import examine

    findings = examine()
    if as_json:
        return print_json([vars(finding) for finding in findings])
    rows = [["yes" if f.present else "no", f.name, f.detail + (f" -> {f.hint}" if f.hint else "")] for f in findings]
    return print_table(["", "what", "detail"], rows)


@app.command()
def demo(
    run: Annotated[Path, typer.Argument(help="Run directory.")] = Path("runs/demo"),
    sets: Sets = None,
) -> None:
    """Train, export, build, validate, measure and use a small network on synthetic data."""
    from stages.demo import run_demo

    print_lines(run_demo(run, sets or []))


@data_commands.command("check")
def data_check(
    config: Annotated[Path, typer.Argument(help="Run directory or TOML file.", show_default=False)],
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Read every frame: count and name the broken ones, count the classes, suggest their weights."""
    from segpipe.errors import DataError
    from stages.config_file import load_config
    from stages.data import check

    loaded = load_config(config, sets or [])
    reports = check.check(loaded, config.parent if config.suffix == ".toml" else config)
    if as_json:
        print_json({split: vars(report) for split, report in reports.items()})
    else:
        print_table(["class", *reports, "median-frequency", "log-frequency"], list(check.summary(loaded, reports)))
        print_table(
            ["split", "frames", "faults"], [[s, str(r.frames), str(len(r.offenders))] for s, r in reports.items()]
        )
    offenders = check.all_offenders(reports)
    for line in offenders[: check.NAMED]:
        print(line, file=sys.stderr)
    if offenders:
        raise DataError(f"{len(offenders)} faults in the data, the first of them above", hint="mend or remove them")


def _find_islands(run: Path, first: Stage, sets: list[str] | None) -> list[str]:
    """The --set overrides that name the islands, after training and exporting what is stale."""
    from stages.auto_islands import find_islands
    from stages.config_file import load_config

    finished = _run_stages(run, first if first in {"train", "export"} else "export", "export", False, sets)
    config = load_config(run, sets or [])

    def open_bench() -> Any:
        from stages.validate.trials import Bench

        return Bench(finished, config, run).judge

    return [find_islands(finished, config, run, open_bench)]


def _validate_hop(run: Path, hop: str) -> None:
    from segpipe.console import print_lines
    from segpipe.rundir import RunDirectory
    from stages.validate.elsewhere import validate_hop

    print_lines(validate_hop(RunDirectory(run), hop))


def _validate_against(run: Path, other: Path) -> None:
    from segpipe.rundir import RunDirectory
    from stages.validate.against import COLUMNS, compare_runs, refuse_drift, table

    reports = compare_runs(RunDirectory(run), RunDirectory(other))
    print_table(COLUMNS, table(reports))
    refuse_drift(reports)


def _explain(run: Path, sets: list[str] | None) -> None:
    from segpipe.console import print_lines
    from segpipe.rundir import RunDirectory
    from stages.config_file import load_config
    from stages.validate import explain_run

    print_lines(explain_run(RunDirectory(run), load_config(run, sets or []), run))


def _run_stages(run: Path, first: Stage, last: Stage, force: bool, sets: list[str] | None) -> "RunDirectory":
    from stages.config_file import load_config
    from stages.pipeline import NAMES, Selection, run_stages

    if NAMES.index(first) > NAMES.index(last):
        raise typer.BadParameter(f"--from {first} comes after --until {last}")
    return run_stages(run, load_config(run, sets or []), run, Selection(first, last, force))


def main() -> None:
    """Entry point of the `segpipe` script."""
    try:
        app()
    except Exception:  # noqa: BLE001 - a bug: its traceback is kept, and scripts can tell it from wrong input
        traceback.print_exc()
        sys.exit(BUG)
