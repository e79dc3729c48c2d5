"""FP32 graph -> FP16 graph with chosen nodes kept in FP32. Inputs and outputs keep their types.

Names tell types: `x` is always the FP32 form of a tensor and `x.fp16` its half form. Whoever needs a form that is not
there yet gets one cast, shared by all. So graph outputs, shared weights and captured values need no special case.
"""

from collections.abc import Iterable, Set
from functools import cache

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from stages.graphs.types import element_types, is_float, opset_of
from stages.measuring.tensors import FP16_MAX

_SUFFIX = ".fp16"
_TYPE_ATTRIBUTES = {"Cast": "to", "ConstantOfShape": "value"}  # operators that make floats out of other types
_ONLY_FIRST = {"Resize", "Upsample"}  # the region and the scales stay FP32
_KEPT = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "NonMaxSuppression"}
_FROM_SHAPES = {"Shape", "Size"}


def to_half(model: onnx.ModelProto, islands: Set[str]) -> onnx.ModelProto:
    """A new model in which every node that may be FP16 is, except those named in `islands`."""
    return _Halving(model, islands).converted()


def half_suffix(names: Iterable[str]) -> str:
    """What is added to a tensor's name for its half form, where the FP32 model has these names."""
    taken, suffix = set(names), _SUFFIX
    while any(name.endswith(suffix) for name in taken):
        suffix += "_"
    return suffix


def halved(tensor: TensorProto) -> np.ndarray:
    """A weight as FP16; a bound of Clip or a mask beyond FP16's range becomes its largest number."""
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    overflown = np.isinf(half) & np.isfinite(values)
    if overflown.any():
        half[overflown] = np.copysign(np.float16(FP16_MAX), values[overflown])
    return half


def shape_values(model: onnx.ModelProto) -> set[str]:
    """Tensors computed from nothing but shapes and constants: sizes, not pixels. FP16 would round them."""
    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type == "Constant":
            constant.update(node.output)
            continue
        variable = [name for name in node.input if name not in constant]
        if node.op_type in _FROM_SHAPES or (variable and found.issuperset(variable)):
            found.update(node.output)
    return found


class _Halving:
    """One conversion: what was emitted so far, and which forms of each tensor exist."""

    def __init__(self, model: onnx.ModelProto, islands: Set[str]) -> None:
        self._model, self._islands = model, islands
        self._types = element_types(model)
        self._opset = opset_of(model)
        self._sizes = shape_values(model)
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self._suffix = half_suffix(self._types)
        self._made = {value.name for value in model.graph.input}
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def converted(self) -> onnx.ModelProto:
        """Convert node after node, then the outputs."""
        for node in self._model.graph.node:
            if self._may_be_half(node):
                self._emit_half(node)
            elif node.op_type in _FROM_SHAPES:
                self._emit_measuring(node)
            else:
                self._emit_kept(node)
        for value in self._model.graph.output:
            self._full(value.name)
        graph = onnx.GraphProto(name=self._model.graph.name)
        graph.node.extend(self._nodes)
        graph.initializer.extend(self._tensors)
        graph.input.extend(value for value in self._model.graph.input if value.name not in self._weights)
        graph.output.extend(self._model.graph.output)
        half = onnx.ModelProto(
            ir_version=self._model.ir_version,
            graph=graph,
            producer_name=self._model.producer_name,
            producer_version=self._model.producer_version,
        )
        half.opset_import.extend(self._model.opset_import)
        half.metadata_props.extend(self._model.metadata_props)
        return half

    def _may_be_half(self, node: NodeProto) -> bool:
        if node.name in self._islands or node.op_type in _KEPT or node.domain not in {"", "ai.onnx"}:
            return False
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            return False
        if any(name in self._sizes for name in node.output):
            return False
        floats_in = [i for i, name in enumerate(node.input) if is_float(self._types, name)]
        floats_out = [i for i, name in enumerate(node.output) if is_float(self._types, name)]
        if not floats_in and node.op_type not in _TYPE_ATTRIBUTES:
            return False
        takes, gives = _half_slots(node.op_type, self._opset)
        return all(gives[min(i, len(gives) - 1)] for i in floats_out) and (
            not floats_in or takes[min(floats_in[0], len(takes) - 1)]
        )

    def _emit_half(self, node: NodeProto) -> None:
        takes, _ = _half_slots(node.op_type, self._opset)
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            stays = not takes[min(index, len(takes) - 1)] or (index > 0 and node.op_type in _ONLY_FIRST)
            copy.input[index] = self._full(name) if stays or not is_float(self._types, name) else self._half(name)
        for index, name in enumerate(node.output):
            if is_float(self._types, name):
                copy.output[index] = name + self._suffix
        _retype(copy)
        self._nodes.append(copy)
        self._made.update(copy.output)

    def _emit_measuring(self, node: NodeProto) -> None:
        """A shape is the same in both forms: no cast of a whole tensor for it."""
        (name,) = node.input
        half = name + self._suffix
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[0] = half if name not in self._made and half in self._made else self._full(name)
        self._nodes.append(copy)
        self._made.update(copy.output)

    def _emit_kept(self, node: NodeProto) -> None:
        for name in (*node.input, *_captured(node)):
            self._full(name)
        self._nodes.append(node)
        self._made.update(node.output)

    def _full(self, name: str) -> str:
        """The tensor as it was, made from its half form when only that is there."""
        if name and name not in self._made:
            if name in self._weights:
                self._tensors.append(self._weights[name])
            elif name + self._suffix in self._made:
                self._cast(name + self._suffix, name, TensorProto.FLOAT)
            else:
                return name  # a value inside a subgraph
            self._made.add(name)
        return name

    def _half(self, name: str) -> str:
        """The half form of an FP32 tensor."""
        half = name + self._suffix
        if half not in self._made:
            if name in self._weights:
                self._tensors.append(numpy_helper.from_array(halved(self._weights[name]), half))
            else:
                self._cast(name, half, TensorProto.FLOAT16)
            self._made.add(half)
        return half

    def _cast(self, source: str, target: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"cast {target}", to=to))


def _captured(node: NodeProto) -> Iterable[str]:
    """Names that the subgraphs of If, Loop and Scan take from outside."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from (*inner.input, *_captured(inner))
            yield from (value.name for value in attribute.g.output)


def _retype(node: NodeProto) -> None:
    """The attribute that names the type a node makes: FP32 becomes FP16."""
    for attribute in node.attribute:
        if attribute.name != _TYPE_ATTRIBUTES.get(node.op_type):
            continue
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
        elif attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(halved(attribute.t)))


@cache
def _half_slots(operator: str, opset: int) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """For each input and each output of an operator, whether ONNX allows FP16 there."""
    schema = onnx.defs.get_schema(operator, opset)
    allowed = {entry.type_param_str: entry.allowed_type_strs for entry in schema.type_constraints}

    def takes_half(slot: onnx.defs.OpSchema.FormalParameter) -> bool:
        return "tensor(float16)" in allowed.get(slot.type_str, [slot.type_str])

    return tuple(map(takes_half, schema.inputs)) or (False,), tuple(map(takes_half, schema.outputs)) or (False,)
