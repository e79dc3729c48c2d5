"""Commands before a run: start one, look at its data and at the networks to choose from."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segpipe.cli.conventions import AsJson, Commands, Sets
from segpipe.console import print_json, print_table

_log = logging.getLogger(__name__)

app = typer.Typer()
data_commands = typer.Typer(cls=Commands, no_args_is_help=True, help="Check labelled data before training on it.")

PresetName = Literal["ultralytics", "nobg", "segformer", "torchvision", "mmsegmentation", "keras", "paddleseg"]
Template = Literal[
    "demo",
    "folder",
    "camvid",
    "camvid-cpu",
    "cityscapes",
    "voc",
    "pet",
    "trained",
    "instances",
    "detection",
    "panoptic",
]


@app.command()
def new(
    directory: Annotated[Path, typer.Argument(help="Run directory to create.", show_default=False)],
    template: Annotated[
        Template, typer.Option(help="Data set, or layout of folders, that the settings are written for.")
    ] = "folder",
) -> None:
    """Write a commented segpipe.toml into a new run directory."""
    from stages.config.starter import write_starter

    print(path := write_starter(directory, template))
    command = {
        "demo": f"segpipe run {directory}",
        "instances": f"segpipe run {directory}",
        "trained": f"segpipe adopt {directory}",
    }.get(template, f"segpipe data check {directory}")
    edited = {
        "demo": "",
        "instances": "",
        "folder": "[data] root and classes",
        "trained": "[data], [input] and [model]",
    }
    what = edited.get(template, "[data] root")
    edit = f"edit {what} in {path}, then " if what else ""
    _log.info("next        %s%s", edit, command)


@app.command("import")
def import_model(
    model: Annotated[
        Path, typer.Argument(help="ONNX file of a trained network, from any framework.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run directory to create.")],
    contract: Annotated[
        Path | None, typer.Option(help="contract.toml, which says what the network's input and output mean.")
    ] = None,
    preset: Annotated[
        PresetName | None,
        typer.Option(help="What exported the file; contract.toml then needs to say only what differs."),
    ] = None,
) -> None:
    """Start a run from an ONNX file; `segpipe run RUN` does the rest."""
    from stages.cli.presets import chosen
    from stages.import_model import run

    print(run(out, model, contract, chosen(model, contract, preset)))


@app.command()
def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Networks to build and measure, also ones that are not in the list.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the networks: stride, parameters, GFLOPs at 512x1024, and what each can do."""
    from stages.models.catalogue import COLUMNS, listed
    from stages.models.registry import networks_of_things

    if names:
        from stages.models.measure import measured  # torch loads here
    lines = measured(names) if names else listed()
    if as_json:
        return print_json([line.as_dict() for line in lines])
    print_table(COLUMNS, [line.cells() for line in lines])
    if not names:
        print("\nsmp/<decoder>/<encoder> takes every encoder of segmentation_models_pytorch, and timm's as tu-<name>.")
        print(f'For things one by one ([task] kind = "instances"): {", ".join(networks_of_things())}.')
    return None


def _is_imported(run: Path) -> bool:
    """Whether nothing trains there."""
    from segpipe.rundir import manifest

    return (run / manifest.FILE_NAME).is_file() and "import" in manifest.load(run).stages


@data_commands.command("check")
def data_check(
    run: Annotated[Path, typer.Argument(help="Run directory, or the TOML file with its settings.", show_default=False)],
    sets: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Read every frame: name what is broken, count the classes (each must occur), suggest their weights."""
    from segpipe.errors import DataError
    from stages.config.file import load_config
    from stages.data import check
    from stages.data.faults import lines

    loaded = load_config(run, sets or [])
    base = run.parent if run.suffix == ".toml" else run
    reports = check.check(loaded, base, trains=not _is_imported(base))
    if as_json:
        print_json({split: report.as_dict() for split, report in reports.items()})
    else:
        apart = {split: report for split, report in reports.items() if split == "val" or report is not reports["val"]}
        if rows := list(check.summary(loaded, apart)):
            print_table(["class, of labelled pixels", *apart, *check.WEIGHTS], rows)
        print_table(
            ["split", "frames", "faults"], [[s, str(r.frames), str(len(r.offenders))] for s, r in apart.items()]
        )
        if len(apart) < len(reports):
            print("there is no test split: val is used for it")
    faults = check.all_faults(reports)
    for line in lines(faults)[: check.SHOWN]:
        print(line, file=sys.stderr)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError(f"{count} in the data, see above", hint=f"`segpipe data check {run} --json` lists every one")
    if not as_json:
        weights = " or ".join(f'"{how}"' for how in check.WEIGHTS)
        print(f"weights     train with a column of them: [train] class_weights = {weights}", file=sys.stderr)
        print(f"next        segpipe run {base}", file=sys.stderr)
