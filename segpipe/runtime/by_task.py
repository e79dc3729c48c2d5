"""The segmenter that a run's task has: masks or things, whichever its contract says."""

from pathlib import Path
from typing import Any

from segpipe.artifacts import AUTO, Precision
from segpipe.contract.schema import InstanceContract
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.opening import any_contract
from segpipe.runtime.segmenter import Segmenter


def open_segmenter(
    run: Path,
    backend: str = AUTO,
    *,
    precision: Precision | None = None,
    threads: int = 0,
    allow_unvalidated: bool = False,
    shadow: float = 0.0,
) -> Segmenter | InstanceSegmenter:
    """Open a run directory or a bundle as `Segmenter.open` does. The shadow compares masks: things have none."""
    how: dict[str, Any] = {"precision": precision, "threads": threads, "allow_unvalidated": allow_unvalidated}
    if not isinstance(any_contract(RunDirectory(run)), InstanceContract):
        return Segmenter.open(run, backend, **how, shadow=shadow)
    if shadow:
        raise InputError(f"{run} tells things one by one, a shadow compares masks", hint="leave the shadow out")
    return InstanceSegmenter.open(run, backend, **how)
