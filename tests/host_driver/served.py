"""`segpipe serve` on the driver of host memory, planned to fail on frames of some widths. For a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.opening import run_contract
from segpipe.runtime.segmenter import Segmenter
from tests.host_driver import driver
from tests.host_driver.backends import Computed

FULL, FAILS, LOST = 1042, 43, 44
"""Widths of frames for which memory runs out, a call fails, and the GPU is lost for good."""
CROWDED = "crowded"
"""Name of a run for which the GPU has no memory."""
PLANT = f"from {__name__} import plant\nplant()"


def plant() -> None:
    """Every run is opened on the driver of host memory."""
    driver.library()
    whole, warm = Segmenter.detail, Segmenter.warm_up

    def detail(self: Segmenter, frame: Any, *rest: Any) -> Any:
        with _planned(frame.shape[1]):
            return whole(self, frame, *rest)

    def warm_up(self: Segmenter) -> None:
        with driver.memory_left(0) if self.artifact_sha256 == CROWDED else nullcontext():
            warm(self)

    for name, planted in {"detail": detail, "warm_up": warm_up, "open": _opened}.items():
        setattr(Segmenter, name, planted)


def _opened(run: Path, *_: object, **__: object) -> Segmenter:
    directory = RunDirectory(run)
    graph, contract = directory.artifact_bytes("export", "model.onnx"), run_contract(directory)
    segmenter = Computed(open_device(0, "cuda-python"), contract, graph).segmenter
    segmenter.artifact_sha256 = run.resolve().name
    return segmenter


@contextmanager
def _planned(width: int) -> Iterator[None]:
    if width == FULL:
        with driver.memory_left(100_000):
            yield
    elif width == FAILS:
        with driver.failing("cuStreamSynchronize", driver.INVALID_VALUE):
            yield
    else:
        if width == LOST:
            driver.library().host_driver_fail(b"*", driver.ILLEGAL_ADDRESS)
        yield
