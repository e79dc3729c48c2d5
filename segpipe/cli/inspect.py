"""Commands that look and change nothing: runs, data, networks, this machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from segpipe.cli.conventions import AsJson, Commands, Run, Sets
from segpipe.console import print_json, print_table

app = typer.Typer()
data_commands = typer.Typer(cls=Commands, no_args_is_help=True, help="Look at the data before training.")


@app.command()
def show(run: Run, as_json: AsJson = False) -> None:
    """Show each stage's state, age, size and headline figure."""
    from datetime import UTC, datetime

    from segpipe.rundir.directory import RunDirectory
    from segpipe.rundir.status import age, readable_size, run_status

    lines = run_status(RunDirectory(run))
    if as_json:
        return print_json([line.as_dict() for line in lines])
    if not any(line.state != "in progress" for line in lines):
        begun = "; ".join(f"{line.stage} is in progress" for line in lines)
        print(f"nothing has finished{f': {begun}' if begun else ''}; run `segpipe run {run}`", file=sys.stderr)
    if not lines:
        return None
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
    from segpipe.errors import ArtifactDamagedError, word
    from segpipe.rundir.directory import RunDirectory
    from segpipe.rundir.verify import verify as verify_run

    directory = RunDirectory(run)
    checked, findings = verify_run(directory)
    if as_json:
        print_json({"checked": checked, "findings": [vars(finding) for finding in findings]})
    else:
        if findings:
            print_table(["file", "state"], [[finding.path, finding.state] for finding in findings])
        print(f"{checked} {'file' if checked == 1 else 'files'} checked{'' if findings else ', all as recorded'}")
    damaged = [finding for finding in findings if finding.is_damage]
    if damaged:
        hint = "copy the bundle here again" if directory.manifest.is_bundle else f"run `segpipe run {word(run)}`"
        if all(finding.state == "unreadable" for finding in damaged):
            hint = f"delete it and run `segpipe validate {word(run)} --hop engine`, or upgrade segpipe"
        names = ", ".join(finding.path for finding in damaged)
        raise ArtifactDamagedError(f"{names} damaged, unreadable or missing", hint=hint)


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


@data_commands.command("check")
def data_check(
    run: Annotated[Path, typer.Argument(help="Run directory or TOML file.", show_default=False)],
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
    reports = check.check(loaded, base)
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
