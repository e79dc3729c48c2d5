"""Tasks: what networks are for. Owns what the runtime asks of a task, and the table that finds it by a contract.

A task has a contract type (segpipe/contract), a light half here (tensors to answers) and one in stages/tasks (targets,
loss and the definition in PyTorch).
"""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract, Placement
from segpipe.palette import Colours
from segpipe.runtime.request import Outputs


class Meter(Protocol):
    """Sums over a data set."""

    def add(self, truth: Any, answer: Any) -> None:
        """Count one frame's answer beside what is true of it."""
        ...

    def figures(self) -> Any:
        """What was measured so far."""
        ...


class Task(Protocol):
    """A task under one contract. It keeps nothing between calls: safe to call from several threads."""

    outputs: tuple[str, ...]
    """Names of the network's outputs that `decode` needs."""

    def require(self, asked: Outputs) -> None:
        """Refuse with InputError what this network cannot answer."""
        ...

    def decode(self, tensors: Mapping[str, NDArray[Any]], placement: Placement, asked: Outputs) -> Any:
        """The outputs for one frame, without their batch, to its answer at `placement.source`'s size.

        The answer belongs to the caller: it holds no view of the tensors.
        """
        ...

    def plain(self, answer: Any) -> Any:
        """What a call of the segmenter gives of an answer: an array without conveniences."""
        ...

    def result(self, answer: Any, palette: Colours, order: Any) -> Any:
        """An answer with what it means and what people do with it: to draw it is the result's work.

        `order`: of the channels of frames and pictures, rgb or bgr.
        """
        ...

    def tiled(self, backend: Any, frame: NDArray[Any], tiling: Any, progress: Any) -> Any:
        """The answer for a checked frame of any size, combined from overlapping tiles."""
        ...

    def on_device(self, job: Any, placement: Placement, tensors: Any) -> Any:
        """The `Decoding` of a job by kernels of the task's own; None where its outputs are decoded on the host."""
        ...

    def meter(self) -> Meter:
        """What counts answers beside labels."""
        ...


TASKS = {
    "semantic": "segpipe.tasks.semantic:SemanticTask",
    "instances": "segpipe.tasks.instances:InstanceTask",
}
"""What makes each task of its contract: module and name, imported when a network of the task is opened."""


def task_of(contract: FrameContract) -> Task:
    """The task that a contract is for."""
    make: Callable[[FrameContract], Task] = resolve_name(TASKS[contract.task])
    return make(contract)
