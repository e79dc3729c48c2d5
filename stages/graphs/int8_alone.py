"""Each quantised layer of an INT8 graph given what the FP32 graph has there: which one is worse than 8 bits explain."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from stages.graphs.halving import half_suffix
from stages.graphs.int8_layers import AXES
from stages.graphs.running import opened
from stages.graphs.types import at_own_batch, element_types

_MARK = " of the INT8 graph"


def noise_of_layers(full: onnx.ModelProto, narrow: onnx.ModelProto, tensor: NDArray[np.float32]) -> dict[str, float]:
    """Decibels of each layer's own result, by node; one run of both."""
    beside = _Beside(full, narrow)
    model = beside.model()
    gauges = [float(value) for value in opened(model)({model.graph.input[0].name: at_own_batch(full, tensor)})]
    pairs = zip(beside.layers, gauges[::2], gauges[1::2], strict=True)
    return {name: 10 * float(np.log10(max(own, 1e-30) / max(noise, 1e-30))) for name, own, noise in pairs}


@dataclass
class _Beside:
    """The FP32 graph, and beside each layer its INT8 form with the same input."""

    full: onnx.ModelProto
    narrow: onnx.ModelProto
    layers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._made = {name: node for node in self.narrow.graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in self.narrow.graph.initializer}
        self._known = {name for node in self.full.graph.node for name in (*node.input, *node.output)}
        self._suffix = half_suffix(element_types(self.full))
        self._copied: set[str] = set()
        self._nodes: list[NodeProto] = []
        self._tensors: list[TensorProto] = []

    def model(self) -> onnx.ModelProto:
        """Its outputs are two numbers a layer: the power of the result, and of what INT8 adds to it."""
        model = onnx.ModelProto()
        model.CopyFrom(self.full)
        del model.graph.output[:]
        for node in self.full.graph.node:
            twin = next((other for other in self.narrow.graph.node if other.name == node.name), None)
            if node.op_type in AXES and twin is not None and self._is_quantised(twin):
                self._add(node, twin)
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(self._tensors)
        for name in self.layers:
            for gauge in ("own", "noise"):
                model.graph.output.append(helper.make_tensor_value_info(f"{name} {gauge}", TensorProto.FLOAT, []))
        for entry in model.opset_import:
            entry.version = max(entry.version, *(other.version for other in self.narrow.opset_import))
        model.ir_version = max(model.ir_version, self.narrow.ir_version)
        return model

    def _is_quantised(self, node: NodeProto) -> bool:
        return all(name in self._made and self._made[name].op_type == "DequantizeLinear" for name in node.input[:2])

    def _add(self, node: NodeProto, twin: NodeProto) -> None:
        inputs = [self._brought(name) for name in twin.input]
        copy = NodeProto()
        copy.CopyFrom(twin)
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.append(node.output[0] + _MARK)
        copy.name = node.name + _MARK
        name = node.name
        self._nodes += [
            copy,
            helper.make_node("Sub", [node.output[0] + _MARK, node.output[0]], [f"{name} difference"]),
            helper.make_node("ReduceSumSquare", [node.output[0]], [f"{name} own"], keepdims=0),
            helper.make_node("ReduceSumSquare", [f"{name} difference"], [f"{name} noise"], keepdims=0),
        ]
        self.layers.append(name)

    def _brought(self, name: str) -> str:
        """What the INT8 graph makes a tensor of, down to what the FP32 graph has too."""
        plain = name.removesuffix(self._suffix)
        if not name or (plain in self._known and name not in self._stored):
            return plain
        if name not in self._copied:
            self._copied.add(name)
            if name in self._stored:
                self._tensors.append(_wide(self._stored[name], name + _MARK))
            else:
                copy = NodeProto()
                copy.CopyFrom(self._made[name])
                copy.input[:] = [self._brought(source) for source in self._made[name].input]
                copy.output[:] = [name + _MARK]
                copy.name += _MARK
                self._nodes.append(copy)
        return name + _MARK


def _wide(tensor: TensorProto, name: str) -> TensorProto:
    if tensor.data_type == TensorProto.FLOAT16:
        return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name)
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
