"""Element types of every tensor in a graph, without copying its weights."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

_SMALL = 64  # elements: constants of shapes and scales, which inference may need to see


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor name -> TensorProto type, for all whose type is known."""
    inferred = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every large initialiser is an input: enough to infer types and shapes from."""
    graph = model.graph
    copied = onnx.GraphProto(name=graph.name)
    copied.node.extend(graph.node)
    copied.input.extend(graph.input)
    copied.output.extend(graph.output)
    named = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if elements(tensor) <= _SMALL:
            copied.initializer.append(tensor)
        elif tensor.name not in named:
            copied.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    light = onnx.ModelProto(ir_version=model.ir_version, graph=copied)
    light.opset_import.extend(model.opset_import)
    return light


def dimensions(value: onnx.ValueInfoProto) -> list[int | None]:
    """Sides of a tensor; None where it is dynamic (some exporters write 0 or -1 there)."""
    sides = value.type.tensor_type.shape.dim
    return [side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None for side in sides]


def at_own_batch(model: onnx.ModelProto, tensor: NDArray[Any]) -> NDArray[Any]:
    """A batch as large as the graph wants it: its frames over and over where the graph fixes a larger one."""
    batch = (dimensions(model.graph.input[0]) or [None])[0]
    return tensor if batch is None or len(tensor) >= batch else np.resize(tensor, (batch, *tensor.shape[1:]))


def is_any_float(value: onnx.ValueInfoProto) -> bool:
    """Whether an input or output is FP32 or FP16."""
    return value.type.tensor_type.elem_type in {TensorProto.FLOAT, TensorProto.FLOAT16}


def is_float(types: dict[str, int], name: str) -> bool:
    """Whether a tensor is FP32."""
    return types.get(name) == TensorProto.FLOAT


def opset_of(model: onnx.ModelProto) -> int:
    """Version of ONNX's own operators that the model uses."""
    return max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})


def elements(tensor: TensorProto) -> int:
    """How many numbers it holds, by its sides; none where a side is negative, which ONNX's checker refuses."""
    count = 1
    for side in tensor.dims:
        count *= max(side, 0)
    return count
