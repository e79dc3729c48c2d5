"""Where FP16 loses its digits: layers that subtract nearly equal numbers, and so multiply what rounding changed.

A batch norm folded over a channel that hardly varied does that: large weights of both signs. Ranges do not show it.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import compose, helper

from stages.graphs.halving import half_suffix, to_half
from stages.graphs.ranges import Unsafe, activations
from stages.graphs.rounding import rounded, wide_name
from stages.graphs.types import element_types

LOST = 2e-2
"""Relative L2 error of a layer's output that is worth an island. Honest networks stay below 1e-2 throughout."""
GROWTH = 20
"""And so many times its inputs' error; what comes later only hands the error on."""
ROUNDING = 2.0**-11
"""Every input has at least this."""
_FRAMES = 4
_HALF = "half/"


def lost_digits(model: onnx.ModelProto, batches: Iterable[NDArray[Any]], input_name: str) -> list[Unsafe]:
    """The inputs of layers that lose digits: their makers and readers belong in FP32, so that nothing is rounded."""
    errors = _errors(model, islice(batches, _FRAMES), input_name)
    found = []
    for node in model.graph.node:
        inputs = [name for name in node.input if name in errors]
        before = max((errors[name] for name in inputs), default=0.0)
        after = max((errors.get(name, 0.0) for name in node.output), default=0.0)
        if inputs and after > LOST and after > GROWTH * max(before, ROUNDING):
            reason = f"{node.op_type} {node.name} turns a rounding error of {before:.2g} into {after:.2g}"
            found += [Unsafe(name, reason, weight=False) for name in inputs]
    return found


def _errors(model: onnx.ModelProto, batches: Iterable[NDArray[Any]], input_name: str) -> dict[str, float]:
    """Greatest relative L2 error of each activation in the FP16 graph. One pass of both graphs a batch."""
    names, both = _side_by_side(model)
    session = onnxruntime.InferenceSession(both.SerializeToString(), providers=["CPUExecutionProvider"])
    errors = dict.fromkeys(names, 0.0)
    for batch in batches:
        gauges = np.array(session.run(None, {input_name: batch}), np.float64).reshape(-1, 2)
        for name, (error, length) in zip(names, gauges, strict=True):
            if length > 0 and np.isfinite(error):  # overflow is the ranges' matter
                errors[name] = max(errors[name], error / length)
    return errors


def _side_by_side(model: onnx.ModelProto) -> tuple[list[str], onnx.ModelProto]:
    """FP32 and rounded FP16 in one graph, whose outputs are each tensor's error and length."""
    half = compose.add_prefix(rounded(to_half(model, set())), _HALF, rename_inputs=False)
    made = {name for node in half.graph.node for name in node.output}
    suffix = half_suffix(element_types(model))
    twins = {name: _HALF + wide_name(name + suffix) for name in activations(model)}
    twins = {name: twin for name, twin in twins.items() if twin in made}
    both = onnx.ModelProto()
    both.CopyFrom(model)
    both.graph.node.extend(half.graph.node)
    both.graph.initializer.extend(half.graph.initializer)
    del both.graph.output[:]
    for name, twin in twins.items():
        both.graph.node.append(helper.make_node("Sub", [name, twin], [f"{name} off"]))
        for of, gauge in ((f"{name} off", "error"), (name, "length")):
            both.graph.node.append(helper.make_node("ReduceL2", [of], [f"{name} {gauge}"], keepdims=0))
            both.graph.output.append(helper.make_tensor_value_info(f"{name} {gauge}", 1, []))
    return list(twins), both
