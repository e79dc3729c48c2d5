"""`python -m benchmarks.gpu`: every step in its own process, with a time limit, its result written at once."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.gpu.plan import NAMES, Step, chosen, fitting
from benchmarks.gpu.results import StepResult, SuiteResult, load, save

_LOG = "log.txt"
_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@_app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder for results.json, the log and a few pictures.")] = Path(
        "gpu-results"
    ),
    work: Annotated[Path, typer.Option(help="Folder for run directories.")] = Path("gpu-work"),
    minutes: Annotated[float, typer.Option(help="Time for all steps; the most valuable run first.")] = 60,
    only: Annotated[
        list[str] | None, typer.Option(help=f"A step to run; repeat it. One of: {', '.join(NAMES)}.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Start every step, run nothing on a GPU.")] = False,
) -> None:
    """Prove the GPU path on this machine. Steps that passed before are not run again."""
    if unknown := set(only or ()) - set(NAMES):
        raise typer.BadParameter(f"no step {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    result = load(out) or SuiteResult(started_utc=datetime.now(UTC).isoformat(timespec="seconds"))
    done = {name for name, step in result.steps.items() if step.state == "passed"}
    waiting, end = chosen(only or (), done), time.monotonic() + 60 * minutes
    while waiting and (step := fitting(waiting, end - time.monotonic())):
        waiting.remove(step)
        result.steps[step.name] = _run(step, (work, out), min(step.limit_s, end - time.monotonic()), dry_run)
        if step.name == "doctor":
            result.machine = result.steps[step.name].figures
        save(out, result)
        print(
            f"{step.name}: {result.steps[step.name].state} {result.steps[step.name].detail}".rstrip(), file=sys.stderr
        )
    for step in waiting:
        print(f"{step.name}: no time left for it", file=sys.stderr)
    print(out)
    if any(step.state in {"failed", "timed out"} for step in result.steps.values()):
        raise typer.Exit(1)


def _run(step: Step, folders: tuple[Path, Path], limit_s: float, dry_run: bool) -> StepResult:
    """Start the step's process, give it its time, and take whatever it reported."""
    work, out = folders
    report = out / f".{step.name}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.child", step.name, str(work), str(out), str(report)]
    started = time.monotonic()
    with (out / _LOG).open("ab") as log:
        log.write(f"\n=== {step.name}: {step.proves}\n".encode())
        log.flush()
        process = subprocess.Popen(
            [*command, "--dry-run"] if dry_run else command, stdout=log, stderr=log, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            return _reported(report, started, "timed out", f"stopped after {limit_s:.0f} s")
    return _reported(report, started, "failed", f"exit code {code}, see {_LOG}")


def _reported(report: Path, started: float, otherwise: str, reason: str) -> StepResult:
    """The step's own result; without one, why there is none."""
    seconds = round(time.monotonic() - started, 1)
    if not report.exists():
        return StepResult.model_validate({"state": otherwise, "seconds": seconds, "detail": reason})
    content = json.loads(report.read_bytes())
    report.unlink()
    if otherwise == "timed out":
        content |= {"state": otherwise, "detail": reason}
    return StepResult.model_validate({**content, "seconds": seconds})


if __name__ == "__main__":
    _app()
