"""Commands that look and change nothing: a run's state, its files, this machine."""

import sys

import typer

from segpipe.cli.conventions import AsJson, RunOrBundle
from segpipe.console import print_json, print_table

app = typer.Typer()


@app.command()
def show(run: RunOrBundle, as_json: AsJson = False) -> None:
    """Show for each stage of a run whether it is fresh or stale and why, its age, size and headline figure."""
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
def verify(run: RunOrBundle, as_json: AsJson = False) -> None:
    """Compare every file of a run with its recorded hash; exit 1 and name those that are damaged."""
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
def doctor(as_json: AsJson = False) -> None:
    """List which backends, GPUs and packages this machine has, and how to install what is missing."""
    from segpipe.doctor import examine

    findings = examine()
    if as_json:
        return print_json([vars(finding) for finding in findings])
    rows = [["yes" if f.present else "no", f.name, f.detail + (f" -> {f.hint}" if f.hint else "")] for f in findings]
    return print_table(["", "what", "detail"], rows)
