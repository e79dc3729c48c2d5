"""The steps of the GPU suite, and which of them fit into the minutes there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One step: a module of `benchmarks.gpu.steps` with `run(folders) -> figures`, in a process of its own."""

    name: str
    proves: str
    limit_s: float
    needs_gpu: bool = True


@dataclass(frozen=True)
class Folders:
    """Where a step works, and where it leaves the few files that are kept."""

    work: Path
    out: Path


STEPS = (  # most valuable first
    Step("doctor", "what is on this machine", 60, needs_gpu=False),
    Step("flavours", "which TensorRT flavours build, deserialise and run here", 120),
    Step("tests", "pytest -m gpu, with a missing GPU as an error", 300),
    Step("demo", "the whole demo on the GPU, engines judged by the release gate", 400),
    Step("networks", "five networks at two sizes and batches against PyTorch and ONNX Runtime", 500),
    Step("kernels", "pre and post kernels against the bytes they must move", 120),
    Step("concurrency", "throughput of 1, 2, 4 and 8 threads", 120),
    Step("faults", "20,000 frames, open and close 200 times, out of memory", 300),
    Step("camvid", "CamVid by the full recipe, and its engine's accuracy", 590),
)
NAMES = tuple(step.name for step in STEPS)


def chosen(only: Collection[str], done: Collection[str]) -> list[Step]:
    """The steps still to do, most valuable first."""
    return [step for step in STEPS if (not only or step.name in only) and step.name not in done]


def fitting(steps: Sequence[Step], seconds: float) -> Step | None:
    """The next step worth starting: the first that can finish, or the first of all if half its limit is left."""
    for step in steps:
        if step.limit_s <= seconds:
            return step
    return next((step for step in steps if step.limit_s / 2 <= seconds), None)
