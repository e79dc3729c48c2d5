"""How large and how small the numbers inside an FP32 graph get on real frames, and what of that FP16 cannot hold."""

from collections.abc import Iterable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from stages.graphs.halving import halved, shape_values
from stages.graphs.types import at_own_batch, element_types, is_float
from stages.measuring.tensors import FP16_MAX

LARGEST = FP16_MAX / 4
"""Greater activations are unsafe: calibration sees a few frames, production sees millions."""
SMALLEST_RMS = 2e-6
"""Tensors with a smaller root mean square are unsafe: FP16 steps by 6e-8 near zero, which is 1 % of this."""
WEIGHT_ERROR = 1e-2
"""Relative L2 error of a weight tensor in FP16 that is unsafe. Rounding alone gives 2e-4."""

_ADDED = {
    "Conv": {2}, "ConvTranspose": {2}, "Gemm": {2}, "BatchNormalization": {2, 3}, "Add": {0, 1}, "Sub": {0, 1},
}  # fmt: skip
"""Inputs that are added to a result: biases and means."""


@dataclass
class Range:
    """What was seen of one tensor over all frames."""

    largest: float = 0.0
    squares: float = 0.0
    elements: int = 0

    @property
    def rms(self) -> float:
        """Root mean square."""
        return float(np.sqrt(self.squares / self.elements)) if self.elements else 0.0


@dataclass(frozen=True)
class Unsafe:
    """A tensor that FP16 cannot hold. `weight`: its readers matter; else its maker and its readers."""

    tensor: str
    reason: str
    weight: bool


def measure(model: onnx.ModelProto, batches: Iterable[NDArray[Any]], input_name: str) -> dict[str, Range]:
    """Ranges of every FP32 activation, those computed from shapes left out. One pass of the network a batch."""
    names = activations(model)
    if not names:  # a graph in FP16 throughout
        return {}
    session = onnxruntime.InferenceSession(
        _with_gauges(model, names).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ranges = {name: Range() for name in names}
    for batch in batches:
        gauges = [float(value) for value in session.run(None, {input_name: at_own_batch(model, batch)})]
        for name, (largest, length, elements) in zip(names, _in_threes(gauges), strict=True):
            seen = ranges[name]
            seen.largest = max(seen.largest, largest)
            seen.squares += length**2  # NaN stays here; ReduceMax does not see it
            seen.elements += int(elements)
    return ranges


def unsafe_activations(ranges: dict[str, Range]) -> list[Unsafe]:
    """Tensors too large or too small, with the figures as reasons."""
    found = []
    for name, seen in ranges.items():
        if np.isnan(seen.squares):
            found.append(Unsafe(name, "NaN in the FP32 network already", weight=False))
        elif not seen.largest <= LARGEST:
            reason = f"activations up to {seen.largest:.3g}, safe in FP16 up to {LARGEST:.0f}"
            found.append(Unsafe(name, reason, weight=False))
        elif 0 < seen.rms < SMALLEST_RMS:
            reason = f"activations of {seen.rms:.3g} (root mean square), safe in FP16 from {SMALLEST_RMS:g}"
            found.append(Unsafe(name, reason, weight=False))
    return found


def unsafe_weights(model: onnx.ModelProto) -> list[Unsafe]:
    """Weights that FP16 rounds to something else.

    Those that are only added may vanish: that changes a result by 3e-8, which no safe activation notices.
    """
    found, added = [], _only_added(model)
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or (tensor.name in added and _is_in_range(tensor)):
            continue
        if not (error := _rounding_error(tensor)) <= WEIGHT_ERROR:
            reason = f"weights '{tensor.name}' change by {error:.1%} in FP16, safe up to {WEIGHT_ERROR:.0%}"
            found.append(Unsafe(tensor.name, reason, weight=True))
    return found


def _only_added(model: onnx.ModelProto) -> set[str]:
    """Tensors that no node uses in another way."""
    added: set[str] = set()
    otherwise: set[str] = set()
    for node in model.graph.node:
        for slot, name in enumerate(node.input):
            (added if slot in _ADDED.get(node.op_type, ()) else otherwise).add(name)
    return added - otherwise


def _is_in_range(tensor: onnx.TensorProto) -> bool:
    return bool((np.abs(numpy_helper.to_array(tensor)) <= FP16_MAX).all())


def _rounding_error(tensor: onnx.TensorProto) -> float:
    """Relative L2 error of the finite values; infinite ones stay what they are."""
    values = numpy_helper.to_array(tensor)
    finite = np.isfinite(values)
    exact = values[finite].astype(np.float64)
    length = float(np.linalg.norm(exact))
    if length == 0:
        return 0.0
    return float(np.linalg.norm(exact - halved(tensor)[finite].astype(np.float64))) / length


def activations(model: onnx.ModelProto) -> list[str]:
    """FP32 tensors that nodes make out of pixels, in the graph's order."""
    types, sizes = element_types(model), shape_values(model)
    made: list[str] = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in made if name not in sizes and is_float(types, name)]


def _with_gauges(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """A copy whose outputs are, for each tensor: largest magnitude, L2 norm, number of elements."""
    gauged = onnx.ModelProto()
    gauged.CopyFrom(model)
    graph = gauged.graph
    del graph.output[:]
    for name in names:
        graph.node.append(helper.make_node("Abs", [name], [f"{name} abs"]))
        graph.node.append(helper.make_node("ReduceMax", [f"{name} abs"], [f"{name} largest"], keepdims=0))
        graph.node.append(helper.make_node("ReduceL2", [name], [f"{name} length"], keepdims=0))
        graph.node.append(helper.make_node("Size", [name], [f"{name} elements"]))
        for gauge, kind in (("largest", 1), ("length", 1), ("elements", 7)):
            graph.output.append(helper.make_tensor_value_info(f"{name} {gauge}", kind, []))
    return gauged


def _in_threes(values: list[float]) -> Iterable[tuple[float, float, float]]:
    return zip(values[::3], values[1::3], values[2::3], strict=True)


def readers_and_makers(model: onnx.ModelProto, tensors: Set[str], makers: bool) -> Iterable[tuple[str, str]]:
    """(node, tensor) for every node that reads one of the tensors, or makes it."""
    for node in model.graph.node:
        for name in (*node.input, *(node.output if makers else ())):
            if name in tensors:
                yield node.name, name
