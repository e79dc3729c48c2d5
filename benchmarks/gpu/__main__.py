"""`python -m benchmarks.gpu`: every step in its own process, with a time limit, its result written at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from benchmarks.gpu.plan import NAMES, Step, chosen, fitting
from benchmarks.gpu.results import State, StepResult, SuiteResult, load, save

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
    tried = {name for name, step in result.steps.items() if step.state in {"failed", "timed out"}}
    waiting, end = chosen(only or (), done, tried), time.monotonic() + 60 * minutes
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
    command += ["--dry-run"] if dry_run else []
    started = time.monotonic()
    with (out / _LOG).open("ab") as log:
        log.write(f"\n=== {step.name}: {step.proves}\n".encode())
        log.flush()
        state, reason = _ended(command, log, limit_s)
    return _reported(report, time.monotonic() - started, state, reason)


def _ended(command: Sequence[str], log: BinaryIO, limit_s: float) -> tuple[State, str]:
    """How a process ended that reported nothing itself. Nothing of it goes on, also after Ctrl-C."""
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the log must tell where a killed step was
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=unbuffered)
    try:
        return "failed", f"exit code {process.wait(limit_s)}, see {_LOG}"
    except subprocess.TimeoutExpired:
        return "timed out", f"stopped after {limit_s:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reported(report: Path, seconds: float, state: State, reason: str) -> StepResult:
    """The step's own result, or the figures it had when it ended without one."""
    result = StepResult(state=state, seconds=0, detail=reason)
    if report.exists():
        found = StepResult.model_validate_json(report.read_bytes())
        report.unlink()
        unfinished = found.state == "failed" and not found.detail
        result = result.model_copy(update={"figures": found.figures}) if unfinished else found
    return result.model_copy(update={"seconds": round(seconds, 1)})


if __name__ == "__main__":
    _app()
