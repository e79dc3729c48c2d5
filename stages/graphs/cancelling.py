"""Where large terms cancel: of a sum much smaller than its terms, FP16's eleven bits a term leave few."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from stages.graphs.ranges import Unsafe
from stages.graphs.types import at_own_batch

LARGEST = 32.0
"""Terms over sum, both as root mean squares. Rounding adds 2.8e-4 of the terms, so this much is 1 % of the sum.

Ordinary layers are at 1 to 3; the second block of a MobileNetV2 trained on ImageNet is at 213."""
_SUMMING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def unsafe_sums(model: onnx.ModelProto, batches: Iterable[NDArray[Any]], input_name: str) -> list[Unsafe]:
    """Inputs of convolutions and matrix products that cancel: they need more digits, and so does who makes them."""
    found: dict[str, Unsafe] = {}
    for node, (terms, result) in _measured(model, batches, input_name).items():
        if result > 0 and not terms / result <= LARGEST:
            reason = f"terms of {terms:.3g} cancel to {result:.3g} in {node} (root mean square), safe in FP16 up to "
            found[node] = Unsafe(_input_of(model, node), f"{reason}{LARGEST:.0f} to 1", weight=False)
    return list(found.values())


def _measured(
    model: onnx.ModelProto, batches: Iterable[NDArray[Any]], input_name: str
) -> dict[str, tuple[float, float]]:
    """Root mean squares of each node's terms and of its result, on the batch where they differ most."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if _is_plain_sum(node, weights)]
    if not nodes:
        return {}
    gauged = _with_gauges(model, nodes, weights)
    session = onnxruntime.InferenceSession(gauged.SerializeToString(), providers=["CPUExecutionProvider"])
    worst: dict[str, tuple[float, float]] = {}
    for batch in batches:
        squares = [float(value) for value in session.run(None, {input_name: at_own_batch(model, batch)})]
        for node, terms, result in zip(nodes, squares[::2], squares[1::2], strict=True):
            seen = float(np.sqrt(terms)), float(np.sqrt(result))
            before = worst.setdefault(node.name, seen)
            worst[node.name] = max(before, seen, key=lambda pair: pair[0] / (pair[1] or np.inf))
    return worst


def _is_plain_sum(node: NodeProto, weights: dict[str, Any]) -> bool:
    """Whether its terms are products of an activation and stored weights, plus a stored bias."""
    scales = [attribute.f for attribute in node.attribute if attribute.name in {"alpha", "beta"}]
    return (
        node.op_type in _SUMMING
        and all(name in weights and weights[name].data_type == onnx.TensorProto.FLOAT for name in node.input[1:])
        and all(scale == 1 for scale in scales)
    )


def _with_gauges(model: onnx.ModelProto, nodes: list[NodeProto], weights: dict[str, Any]) -> onnx.ModelProto:
    """A copy whose outputs are, for each node: mean square of its terms' lengths, mean square of its result.

    The squared terms are summed by the node itself, from squared activations and squared weights.
    """
    gauged = onnx.ModelProto()
    gauged.CopyFrom(model)
    graph = gauged.graph
    del graph.output[:]
    for node in nodes:
        own = f"{node.name} "
        squared = NodeProto()
        squared.CopyFrom(node)
        squared.name, squared.output[0] = f"{own}sum", f"{own}terms"
        graph.node.append(helper.make_node("Mul", [node.input[0]] * 2, [f"{own}squares"]))
        squared.input[0] = f"{own}squares"
        for slot, name in enumerate(node.input[1:], 1):
            squared.input[slot] = f"{own}{slot}"
            values = numpy_helper.to_array(weights[name])
            graph.initializer.append(numpy_helper.from_array(np.square(values), squared.input[slot]))
        graph.node.append(squared)
        graph.node.append(helper.make_node("Mul", [node.output[0]] * 2, [f"{own}power"]))
        for source in ("terms", "power"):
            graph.node.append(helper.make_node("ReduceMean", [f"{own}{source}"], [f"{own}{source} mean"], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(f"{own}{source} mean", onnx.TensorProto.FLOAT, []))
    return gauged


def _input_of(model: onnx.ModelProto, name: str) -> str:
    return next(node.input[0] for node in model.graph.node if node.name == name)
