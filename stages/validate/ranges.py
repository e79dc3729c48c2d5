"""How large the numbers inside an ONNX graph get: every tensor's greatest magnitude in one run of the network."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from segpipe.contract import Contract
from segpipe.runtime.preprocess import preprocess

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})


def peaks(graph: bytes, frame: NDArray[Any], contract: Contract) -> dict[str, float]:
    """Largest magnitude of every floating-point activation on one frame."""
    model = onnx.load_from_string(graph)
    names = activations(model)
    del model.graph.output[:]
    for name in names:
        model.graph.node.append(helper.make_node("Cast", [name], [f"{name} float"], to=TensorProto.FLOAT))
        model.graph.node.append(helper.make_node("Abs", [f"{name} float"], [f"{name} size"]))
        model.graph.node.append(helper.make_node("ReduceMax", [f"{name} size"], [f"{name} peak"], keepdims=0))
        model.graph.output.append(helper.make_tensor_value_info(f"{name} peak", TensorProto.FLOAT, []))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    tensor = preprocess(frame, contract, contract.place(*frame.shape[:2]))[np.newaxis]
    found = session.run(None, {contract.input_name: tensor})
    return {name: float(peak) for name, peak in zip(names, found, strict=True)}


def activations(model: onnx.ModelProto) -> list[str]:
    """Names of the floating-point tensors that nodes make, in the graph's order."""
    inferred = shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    made = [name for node in model.graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in made if types.get(name) in _FLOATS]
