"""Which nodes INT8 is for: those that multiply by stored weights. What is known of each without running anything."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from stages.graphs.naming import module_of

QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": None, "MatMul": None}


@dataclass(frozen=True)
class Layer:
    """A node, and along which axis of its weights its output channels lie."""

    node: onnx.NodeProto
    axis: int
    depthwise: bool

    @property
    def name(self) -> str:
        """The node's."""
        return str(self.node.name)

    @property
    def source(self) -> str:
        """The tensor that it reads."""
        return str(self.node.input[0])

    @property
    def weights(self) -> str:
        """The tensor of its weights."""
        return str(self.node.input[1])

    @property
    def module(self) -> str:
        """Of the PyTorch network; empty in graphs of others."""
        return module_of(self.node)


def layers_of(model: onnx.ModelProto) -> list[Layer]:
    """In the graph's order."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    return [
        _layer(node, stored[node.input[1]])
        for node in model.graph.node
        if node.op_type in AXES and node.input[1] in stored and node.input[0] not in stored
    ]


def is_quantised(model: onnx.ModelProto) -> bool:
    """Whether somebody has put quantisation into the graph."""
    return any(node.op_type in QUANTISERS for node in model.graph.node)


def per_channel(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The largest magnitude of each output channel's weights."""
    others = tuple(index for index in range(values.ndim) if index != axis)
    return np.asarray(np.abs(values).max(axis=others, initial=0), np.float32)


def along(vector: NDArray[np.float32], axis: int, ndim: int) -> NDArray[np.float32]:
    """A number a channel, in a shape that broadcasts over the weights."""
    return vector.reshape([-1 if index == axis else 1 for index in range(ndim)])


def residuals(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Additions of two tensors, and which of the two is to be quantised: one that is not just a convolution's result,
    which the engine adds before it rounds."""
    made = {name: node for node in model.graph.node for name in node.output}
    uses: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            uses[name] = uses.get(name, 0) + 1
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Add" and not stored.intersection(node.input):
            fused = [name in made and made[name].op_type == "Conv" and uses[name] == 1 for name in node.input]
            yield node, fused.index(False) if False in fused else 1


def _layer(node: onnx.NodeProto, weights: onnx.TensorProto) -> Layer:
    axis = AXES[node.op_type]
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if axis is None:
        axis = 0 if node.op_type == "Gemm" and attributes.get("transB") else len(weights.dims) - 1
    groups = attributes.get("group", 1)
    return Layer(node, axis, node.op_type == "Conv" and groups > 1 and weights.dims[1] == 1)
