"""How the gate compares answers of each task: what it asks of one, and the table that finds it by a contract."""

from collections.abc import Callable
from pkgutil import resolve_name
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from stages.config.root import ValidateConfig


class GateTask(Protocol):
    """How the gate compares two answers under one contract and its settings. No torch: any machine can judge."""

    def nothing(self, peak: Any) -> Any:
        """What is measured of a hop, before any image. `peak`: of the FP16 graph's activations."""
        ...

    def truth(self, answered: Any, labels: NDArray[Any] | None) -> Any:
        """The reference's answer to one image, as every candidate is compared with it."""
        ...

    def fidelity(self, measured: Any, hop: Any) -> list[Any]:
        """Every limit of being the same network, compared with what was measured."""
        ...

    def rules(self, measured: Any, hop: Any) -> Any:
        """What a hop is held to; its `relative_l2.limit` is what bisection takes for honest."""
        ...

    def accuracy(self, measured: Any) -> list[Any]:
        """Every floor of being a good network, compared with what was measured."""
        ...

    def reference_accuracy(self, measured: Any) -> list[Any]:
        """The same floors for the reference."""
        ...


GATES = {
    "semantic": "stages.validate.judging.semantic:SemanticGate",
    "instances": "stages.validate.judging.instances:InstanceGate",
}
"""What makes each task's part of the gate, of its contract and the gate's settings."""


def gate_task_of(contract: FrameContract, settings: ValidateConfig) -> GateTask:
    """How the gate judges networks for this contract."""
    make: Callable[[FrameContract, ValidateConfig], GateTask] = resolve_name(GATES[contract.task])
    return make(contract, settings)
