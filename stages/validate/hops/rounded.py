"""The shipped FP16 graph with the numbers that hardware gives: every result rounded to FP16, on ONNX Runtime's CPU."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segpipe.contract.schema import FrameContract
from segpipe.runtime.preprocess import preprocess
from stages.graphs.halving import to_half
from stages.graphs.naming import describe, module_of
from stages.graphs.ranges import measure
from stages.graphs.reading import to_bytes
from stages.graphs.rounding import rounded, wide_name
from stages.graphs.types import element_types
from stages.measuring.tensors import FP16_MAX
from stages.validate.explaining.inner_tensors import GraphSide
from stages.validate.judging.checks import Peak

BACKEND = "onnxruntime-rounded"


def rounded_bytes(graph: bytes) -> bytes:
    """The graph to run in place of the FP16 one: left to itself, ONNX Runtime's CPU provider hides overflows."""
    return to_bytes(rounded(onnx.load_model_from_string(graph)))


def halved_anew(full: bytes, half: bytes | None) -> bytes:
    """The FP16 graph as export makes it of the FP32 one, with the FP32 islands that `half` has, whatever else was done
    to `half`: what rounding alone may do to the network."""
    model = onnx.load_model_from_string(full)
    islands = set() if half is None else _kept_wide(onnx.load_model_from_string(half), model)
    return to_bytes(to_half(model, islands))


def _kept_wide(half: onnx.ModelProto, full: onnx.ModelProto) -> set[str]:
    """Nodes of both graphs whose results are FP32 in both."""
    wide = {name for name, type_ in element_types(half).items() if type_ == onnx.TensorProto.FLOAT}
    kept = {node.name for node in half.graph.node if node.op_type != "Cast" and wide.intersection(node.output)}
    return kept & {node.name for node in full.graph.node}


def rounded_side(graph: bytes, tensor: NDArray[Any], tensors: dict[str, str]) -> GraphSide:
    """Checkpoints of the FP16 graph, as `GraphSide`."""
    types = element_types(onnx.load_model_from_string(graph))
    renamed = {
        checkpoint: wide_name(name) if types.get(name) == onnx.TensorProto.FLOAT16 else name
        for checkpoint, name in tensors.items()
    }
    return GraphSide(rounded_bytes(graph), tensor, renamed)


def half_peak(graph: bytes, contract: FrameContract, frames: Sequence[NDArray[Any]]) -> Peak | None:
    """The largest value that the graph must hold in FP16, as it is before it is rounded. Islands do not count."""
    model = rounded(onnx.load_model_from_string(graph))
    tensors = (preprocess(frame, contract, contract.place(*frame.shape[:2]))[np.newaxis] for frame in frames)
    ranges = measure(model, tensors, contract.input_name)
    held = {
        name: seen.largest for name, seen in ranges.items() if wide_name("") in name and f"{name} exact" not in ranges
    }
    if not held:
        return None
    overflowing = (name for name, value in held.items() if not value <= FP16_MAX)  # what follows holds Inf, not values
    largest = next(overflowing, max(held, key=lambda name: held[name]))
    maker = next(node for node in model.graph.node if largest in node.output)
    return Peak(held[largest], describe(maker), maker.name, module_of(maker))
