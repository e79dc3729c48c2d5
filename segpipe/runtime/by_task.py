"""The segmenter that a run's task has: masks or things, whichever its contract says."""

from pathlib import Path

from segpipe.artifacts import AUTO, Precision
from segpipe.contract.schema import InstanceContract
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
) -> Segmenter | InstanceSegmenter:
    """Open a run directory or a bundle as `Segmenter.open` does."""
    kind = InstanceSegmenter if isinstance(any_contract(RunDirectory(run)), InstanceContract) else Segmenter
    return kind.open(run, backend, precision=precision, threads=threads, allow_unvalidated=allow_unvalidated)
