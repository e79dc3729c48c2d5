"""The shipped FP16 graph with the numbers that hardware gives: every result rounded to FP16, on ONNX Runtime's CPU."""

from typing import Any

import onnx
from numpy.typing import NDArray

from stages.graphs.reading import to_bytes
from stages.graphs.rounding import rounded
from stages.graphs.types import element_types
from stages.validate.sides import GraphSide

BACKEND = "onnxruntime-rounded"


def rounded_bytes(graph: bytes) -> bytes:
    """The graph to run in place of the FP16 one: left to itself, ONNX Runtime's CPU provider hides overflows."""
    return to_bytes(rounded(onnx.load_model_from_string(graph)))


def rounded_side(graph: bytes, tensor: NDArray[Any], tensors: dict[str, str]) -> GraphSide:
    """Checkpoints of the FP16 graph, as `GraphSide`."""
    types = element_types(onnx.load_model_from_string(graph))
    renamed = {
        checkpoint: f"{name} wide" if types.get(name) == onnx.TensorProto.FLOAT16 else name
        for checkpoint, name in tensors.items()
    }
    return GraphSide(rounded_bytes(graph), tensor, renamed)
