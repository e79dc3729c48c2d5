"""Which nodes stay FP32, and why: those a user names, and those the range probe finds."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import onnx
from numpy.typing import NDArray

from segpipe.errors import ConfigError
from stages.graphs import naming
from stages.graphs.cancelling import unsafe_sums
from stages.graphs.ranges import Unsafe, measure, readers_and_makers, unsafe_activations, unsafe_weights

AUTO, WEIGHTS = "auto", "weights"
PROBES = (AUTO, WEIGHTS)
_FRAMES_FOR_SUMS = (
    2  # whether terms cancel depends on the weights far more than on the frame, and it costs a second pass
)


@dataclass(frozen=True)
class Island:
    """One node kept in FP32."""

    node: str
    operator: str
    module: str
    reason: str

    def as_dict(self) -> dict[str, str]:
        """For the record."""
        return asdict(self)


def choose(
    model: onnx.ModelProto, wanted: Sequence[str], frames: Callable[[], Iterable[NDArray[Any]]], input_name: str
) -> list[Island]:
    """The islands of `export.fp32_islands`; `frames` gives calibration tensors and is called only for "auto".

    "weights" looks at the weights alone, for who has no frames.
    """
    reasons: dict[str, str] = {}  # what was measured goes before what was named
    if AUTO in wanted:
        reasons |= _reasons(model, unsafe_sums(model, islice(frames(), _FRAMES_FOR_SUMS), input_name))
        reasons |= _reasons(model, unsafe_activations(measure(model, frames(), input_name)))
    if not set(PROBES).isdisjoint(wanted):
        reasons |= _reasons(model, unsafe_weights(model))
    for name in wanted:
        if name not in PROBES:
            for node in named_nodes(model, name, "export.fp32_islands"):  # names may overlap: a module and its child
                reasons.setdefault(node, f"named in export.fp32_islands: {name}")
    return [
        Island(node.name, node.op_type, naming.module_of(node), reasons[node.name])
        for node in model.graph.node
        if node.name in reasons
    ]


def of_modules(model: onnx.ModelProto, modules: Mapping[str, str], known: Set[str]) -> list[Island]:
    """The nodes of modules that stay FP32 whatever is set, with the module's reason; `known` ones have one already."""
    return [
        Island(node.name, node.op_type, naming.module_of(node), why)
        for name, why in modules.items()
        for node in model.graph.node
        if node.name not in known and any(f"{own}.".startswith(f"{name}.") for own in naming.modules_of(node))
    ]


def named_nodes(model: onnx.ModelProto, name: str, setting: str) -> list[str]:
    """Nodes that the name or pattern of a module or node means."""
    nodes = model.graph.node
    found = [node.name for node in nodes if naming.belongs_to(node, name) or _matches(node, name)]
    if not found:
        modules = list(dict.fromkeys(module for node in nodes for module in naming.modules_of(node)[:1]))
        known = modules or [node.name for node in nodes[:12]]
        raise ConfigError(
            f"{setting}: the network has no module or node '{name}'",
            hint=f"it has {', '.join(known)}",
        )
    return found


def _matches(node: onnx.NodeProto, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (node.name, *naming.modules_of(node)))


def _reasons(model: onnx.ModelProto, unsafe: Sequence[Unsafe]) -> dict[str, str]:
    """Node -> the first reason to keep it in FP32."""
    by_tensor = {entry.tensor: entry.reason for entry in unsafe}
    weights = {entry.tensor for entry in unsafe if entry.weight}
    found: dict[str, str] = {}
    for makers, tensors in ((False, weights), (True, set(by_tensor) - weights)):
        for node, tensor in readers_and_makers(model, tensors, makers):
            found.setdefault(node, by_tensor[tensor])
    return found
