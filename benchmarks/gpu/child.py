"""One step of the suite in its own process: says why it cannot run, or runs and reports its figures as they come."""

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import STEPS, Folders
from segpipe.doctor import examine
from segpipe.errors import SegpipeError
from segpipe.rundir.storage import write_atomically


def main() -> None:
    """`python -m benchmarks.gpu.child STEP WORK OUT REPORT [--dry-run]`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step")
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    step = next(step for step in STEPS if step.name == arguments.step)
    gpu = next(finding for finding in examine() if finding.name == "NVIDIA GPU")
    module = import_module(f"benchmarks.gpu.steps.{step.name}")  # a step that cannot even start is found in a dry run
    if step.needs_gpu and (arguments.dry_run or not gpu.present):
        reason = "dry run" if gpu.present else gpu.detail
        print(f"{step.name} needs an NVIDIA GPU: {reason}")
        return _report(arguments.report, "not run", f"needs an NVIDIA GPU: {reason}", {})
    figures: dict[str, Any] = {}
    try:
        for figures in module.run(Folders(arguments.work, arguments.out)):
            _report(arguments.report, "failed", "", figures)  # what stands there when this process is killed
    except (SegpipeError, AssertionError) as error:
        _report(arguments.report, "failed", str(error), figures)
        sys.exit(1)
    return _report(arguments.report, "passed", "", figures)


def _report(path: Path, state: str, detail: str, figures: dict[str, Any]) -> None:
    content = {"state": state, "detail": detail, "figures": figures, "seconds": 0}
    write_atomically(path, json.dumps(content, default=str).encode())


if __name__ == "__main__":
    main()
