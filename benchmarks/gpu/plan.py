"""The steps of the GPU suite, and which of them fit into the minutes there are."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One step: a module of `benchmarks.gpu.steps`, in a process of its own.

    Its `run(folders)` yields the figures as they grow: what was yielded is kept, however the step ends.
    """

    name: str
    proves: str
    limit_s: float
    needs_gpu: bool = True
    after: tuple[str, ...] = ()
    """Steps that make what this one measures: chosen with it, and limited by themselves."""


@dataclass(frozen=True)
class Folders:
    """Where a step works, and where it leaves the few files that are kept."""

    work: Path
    out: Path


STEPS = (  # most valuable first; none is longer than a server that ends commands after ten minutes allows
    Step("doctor", "what is on this machine", 60, needs_gpu=False),
    Step("flavours", "which backends build, deserialise and run here", 120),
    Step("tests", "pytest -m gpu, with a missing GPU as an error", 300),
    Step("demo", "the whole demo on the GPU, engines judged by the release gate", 300),
    Step("exports", "the networks of the next steps as files, on the CPU", 180),
    Step(
        "networks", "five networks, two sizes, batches and precisions, against PyTorch and ONNX Runtime", 420,
        after=("exports",),
    ),
    Step("kernels", "pre and post kernels against the bytes they must move", 60),
    Step(
        "compiled", "the fastest networks against torch.compile (max-autotune, FP16, channels_last)", 300,
        after=("exports",),
    ),
    Step("camvid", "CamVid by the full recipe, and its engine's accuracy", 520),
    Step("concurrency", "throughput of 1, 2, 4 and 8 threads", 60),
    Step("faults", "20,000 frames, open and close 200 times, out of memory", 240),
)  # fmt: skip
NAMES = tuple(step.name for step in STEPS)


def chosen(only: Collection[str], done: Collection[str], tried: Collection[str] = ()) -> list[Step]:
    """The steps still to do, most valuable first; those that were tried before and failed come last."""
    named = {*only, *(name for step in STEPS if step.name in only for name in step.after)}
    wanted = (step for step in STEPS if (not only or step.name in named) and step.name not in done)
    return sorted(wanted, key=lambda step: step.name in tried)


def fitting(steps: Sequence[Step], seconds: float) -> Step | None:
    """The next step worth starting: the first that can finish, or the first of all if half its limit is left."""
    for step in steps:
        if step.limit_s <= seconds:
            return step
    return next((step for step in steps if step.limit_s / 2 <= seconds), None)
