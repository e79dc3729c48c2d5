"""Tasks, offline: what training and export ask of a task, and the table that finds it by a contract.

The light half, which production embeds, is in segpipe/tasks. Nothing here imports torch before it is asked for.
"""

from collections.abc import Callable, Mapping, Sequence
from pkgutil import resolve_name
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract, Placement


class TorchMeter(Protocol):
    """Sums over a data set, on the network's device and over all processes. A torch module."""

    def add(self, answer: Any, labels: NDArray[Any]) -> None:
        """Count one frame's answer beside its labels."""
        ...

    def harvest(self) -> Any:
        """What was counted since the last time, by all processes, and forget it; every process must ask."""
        ...

    def reset(self) -> None:
        """Forget what was counted."""
        ...


class OfflineTask(Protocol):
    """A task under one contract. It keeps nothing between calls."""

    headline: str
    """The figure by which an epoch's weights are better than another's: more is better."""
    fp32_modules: Mapping[str, str]
    """Modules of its networks that FP16 graphs keep in FP32, whatever is set, and why."""
    gives_labels: bool
    """Whether graphs end in a decision: then answers are compared by the share that differs, not by their distance."""

    def targets(self, labels: NDArray[Any]) -> Any:
        """One frame's augmented labels as what the loss takes, a tensor."""
        ...

    def loss(
        self, terms: Sequence[Any], class_weights: Sequence[float] | None, averaging: Any, things: Any = ...
    ) -> Any:
        """The module that makes one number of an output and its batch of targets. `things`: weights of its parts."""
        ...

    def at_targets(self, output: Any, targets: Any) -> Any:
        """An output of the network, resized to what its loss compares it with."""
        ...

    def decide(self, output: Any, placement: Placement) -> Any:
        """The definition: one frame's output of the network, as it is, to its answer."""
        ...

    def segment(self, network: Any, frame: NDArray[Any]) -> Any:
        """The definition: a frame through the network to its answer."""
        ...

    def meter(self) -> TorchMeter:
        """What counts answers beside labels."""
        ...

    def headline_of(self, counted: Any) -> float:
        """The headline's figure of what a meter counted."""
        ...

    def kept(self, counted: Any) -> Any:
        """What a meter counted as a resume point keeps it: numbers, lists and dicts."""
        ...

    def told(self, counted: Any) -> str:
        """What a meter counted in words, for a person who watches training."""
        ...

    def curves(self, counted: Any) -> dict[str, float]:
        """What TensorBoard is told of it beside the headline."""
        ...

    def class_numbers(self, targets: Any) -> NDArray[Any]:
        """HxW class numbers of a frame's targets, to be drawn."""
        ...


OFFLINE_TASKS = {
    "semantic": "stages.tasks.semantic:OfflineSemantic",
    "instances": "stages.tasks.instances:OfflineInstances",
}
"""What makes each task of its contract: module and name."""


def offline_task_of(contract: FrameContract) -> OfflineTask:
    """The task that a contract is for."""
    make: Callable[[FrameContract], OfflineTask] = resolve_name(OFFLINE_TASKS[contract.task])
    return make(contract)
