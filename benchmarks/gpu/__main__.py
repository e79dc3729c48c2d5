"""`python -m benchmarks.gpu`: every step in its own process, with a time limit, its result written at once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from benchmarks.gpu.plan import NAMES, Step, chosen, fitting
from benchmarks.gpu.results import State, StepResult, SuiteResult, load, save

_LOG = "log.txt"
_EVERY_S = 5.0  # what a step has found so far is kept so often
_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@_app.command()
def main(
    *,
    out: Annotated[Path, typer.Option(help="Folder for results.json, the log and a few pictures.")] = Path(
        "gpu-results"
    ),
    work: Annotated[Path, typer.Option(help="Folder for run directories.")] = Path("gpu-work"),
    minutes: Annotated[float, typer.Option(help="Time for all steps; the most valuable run first.")] = 60,
    only: Annotated[
        list[str] | None, typer.Option(help=f"A step to run; repeat it. One of: {', '.join(NAMES)}.")
    ] = None,
    copy: Annotated[
        Path | None, typer.Option(envvar="OUT", help="Folder that gets a copy of the results as they come.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Start every step, run nothing on a GPU.")] = False,
) -> None:
    """Prove the GPU path on this machine. Steps that passed before are not run again."""
    if unknown := set(only or ()) - set(NAMES):
        raise typer.BadParameter(f"no step {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for folder in filter(None, (out, work, copy)):
        folder.mkdir(parents=True, exist_ok=True)
    result = load(out) or SuiteResult(started_utc=datetime.now(UTC).isoformat(timespec="seconds"))
    done = {name for name, step in result.steps.items() if step.state == "passed"}
    tried = {name for name, step in result.steps.items() if step.state in {"failed", "timed out"}}
    waiting, end = chosen(only or (), done, tried), time.monotonic() + 60 * minutes
    while waiting and (step := fitting(waiting, end - time.monotonic())):
        waiting.remove(step)
        keep = partial(_keep, result, step.name, out, copy)
        _run(step, (work, out), min(step.limit_s, end - time.monotonic()), dry_run, keep)
        print(
            f"{step.name}: {result.steps[step.name].state} {result.steps[step.name].detail}".rstrip(), file=sys.stderr
        )
    for step in waiting:
        print(f"{step.name}: no time left for it", file=sys.stderr)
    print(out)
    if any(step.state in {"failed", "timed out"} for step in result.steps.values()):
        raise typer.Exit(1)


def _keep(result: SuiteResult, name: str, out: Path, copy: Path | None, step: StepResult) -> None:
    """Save what is known of a step, here and where the copies go."""
    result.steps[name] = step
    if name == "doctor":
        result.machine = step.figures
    save(out, result)
    if copy is None or copy.resolve() == out.resolve():
        return
    for file in out.iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copy(file, copy)


def _run(
    step: Step, folders: tuple[Path, Path], limit_s: float, dry_run: bool, keep: Callable[[StepResult], None]
) -> None:
    """Start the step's process, give it its time, and keep what it reports, while it runs and at its end."""
    work, out = folders
    report = out / f".{step.name}.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu.child", step.name, str(work), str(out), str(report)]
    command += ["--dry-run"] if dry_run else []
    started = time.monotonic()
    with (out / _LOG).open("ab") as log:
        log.write(f"\n=== {step.name}: {step.proves}\n".encode())
        log.flush()
        running = partial(_reported, report, state="failed", reason="it was still running")
        state, reason = _ended(command, log, limit_s, lambda: keep(running(seconds=time.monotonic() - started)))
    keep(_reported(report, time.monotonic() - started, state, reason))
    report.unlink(missing_ok=True)


def _ended(command: Sequence[str], log: BinaryIO, limit_s: float, meanwhile: Callable[[], None]) -> tuple[State, str]:
    """How a process ended that reported nothing itself. Nothing of it goes on, also after Ctrl-C."""
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the log must tell where a killed step was
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=unbuffered)
    end = time.monotonic() + limit_s
    try:
        while (left := end - time.monotonic()) > 0:
            try:
                return "failed", f"exit code {process.wait(min(left, _EVERY_S))}, see {_LOG}"
            except subprocess.TimeoutExpired:
                meanwhile()
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
        unfinished = found.state == "failed" and not found.detail
        result = result.model_copy(update={"figures": found.figures}) if unfinished else found
    return result.model_copy(update={"seconds": round(seconds, 1)})


if __name__ == "__main__":
    _app()
