"""An FP16 graph as ONNX Runtime's CPU provider can compute it truthfully: FP32 arithmetic, every result rounded.

Handed an FP16 graph, that provider computes runs of nodes in FP32 and rounds only between the runs, so an overflow can
hide. Here each node that does arithmetic is followed by an explicit cast to FP16 and back, which it never removes:
what overflows becomes Inf, what is too small becomes 0. It is how a GPU computes with FP32 accumulators.
"""

from collections.abc import Set

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from stages.graphs.types import element_types

_EXACT = frozenset(
    {
        *("Relu", "Concat", "Reshape", "Transpose", "Slice", "Gather", "Flatten", "Squeeze", "Unsqueeze", "Identity"),
        *("MaxPool", "Max", "Min", "Clip", "Pad", "Expand", "Split", "Tile", "Neg", "Abs", "Where", "DepthToSpace"),
        *("SpaceToDepth", "ReduceMax", "ReduceMin", "GatherElements", "ConstantOfShape", "Constant"),
    }
)
"""Operators that only move or choose numbers: rounded inputs give rounded outputs."""


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A new FP32 model that gives what the FP16 model gives on hardware. Inputs and outputs keep their types."""
    types = element_types(model)
    graph = onnx.GraphProto(name=model.graph.name)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.initializer.extend(_widened(tensor) for tensor in model.graph.initializer)
    halves = [value.name for value in model.graph.input if types[value.name] == TensorProto.FLOAT16]
    graph.node.extend(_cast(name, wide_name(name), TensorProto.FLOAT) for name in halves)
    fp8 = TensorProto.FLOAT8E4M3FN in types.values()
    # ONNX Runtime merges Relu and Clip into FP8's quantisers, and then computes wrong
    exact = frozenset() if fp8 else _EXACT
    for node in model.graph.node:
        graph.node.extend(_rounded_node(node, types, exact))
    for value in model.graph.output:
        if types[value.name] == TensorProto.FLOAT16:
            graph.node.append(_cast(wide_name(value.name), value.name, TensorProto.FLOAT16))
    wide = onnx.ModelProto(ir_version=model.ir_version, graph=graph)
    wide.opset_import.extend(model.opset_import)
    wide.metadata_props.extend(model.metadata_props)
    return wide


def _rounded_node(node: NodeProto, types: dict[str, int], exact: Set[str]) -> list[NodeProto]:
    """The node on FP32 tensors, then the rounding of what was FP16."""
    copy = NodeProto()
    copy.CopyFrom(node)
    for names in (copy.input, copy.output):
        for index, name in enumerate(names):
            names[index] = wide_name(name) if types.get(name) == TensorProto.FLOAT16 else name
    for attribute in copy.attribute:
        if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
        elif attribute.type == onnx.AttributeProto.TENSOR:
            attribute.t.CopyFrom(_widened(attribute.t))
    if node.op_type in exact:
        return [copy]
    after = []
    for index, name in enumerate(node.output):
        if types.get(name) == TensorProto.FLOAT16:
            wide = copy.output[index]
            copy.output[index] = f"{wide} exact"
            after.append(_cast(f"{wide} exact", f"{wide} half", TensorProto.FLOAT16))
            after.append(_cast(f"{wide} half", wide, TensorProto.FLOAT))
    return [copy, *after]


def _widened(tensor: TensorProto) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    name = wide_name(tensor.name) if tensor.name else ""
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name)


def wide_name(name: str) -> str:
    """What an FP16 tensor is called in the rounded model; `wide_name(x) + " exact"` is its value before rounding."""
    return f"{name} wide"


def _cast(source: str, target: str, to: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast {target}", to=to)
