"""Small ONNX graphs with the troubles that real ones have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def weights(name: str, *shape: int, scale: float = 1.0, seed: int = 0) -> TensorProto:
    """Reproducible FP32 noise."""
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return numpy_helper.from_array(values.astype(np.float32), name)


def constant(name: str, values: Any, dtype: Any = np.float32) -> TensorProto:
    """A named constant."""
    return numpy_helper.from_array(np.array(values, dtype), name)


def conv(source: str, weight: str, target: str, **attributes: Any) -> onnx.NodeProto:
    """A 3x3 convolution that keeps the size, named after its output."""
    return helper.make_node("Conv", [source, weight], [target], name=target, pads=[1, 1, 1, 1], **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[TensorProto],
    shape: Sequence[Any] = ("batch", 3, 16, 24),
    outputs: Sequence[tuple[str, int, Sequence[Any]]] = (("logits", FLOAT, ("batch", 4, 16, 24)),),
    *,
    opset: int = 18,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """A model with input `image`."""
    return helper.make_model(
        helper.make_graph(
            list(nodes),
            "tiny",
            [helper.make_tensor_value_info("image", kind, list(shape))],
            [helper.make_tensor_value_info(name, type_, list(sides)) for name, type_, sides in outputs],
            list(initializers),
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )


def plain(opset: int = 18) -> onnx.ModelProto:
    """Two convolutions and a ReLU."""
    return graph(
        [conv("image", "w1", "a"), helper.make_node("Relu", ["a"], ["b"], name="relu"), conv("b", "w2", "logits")],
        [weights("w1", 8, 3, 3, 3, scale=0.3), weights("w2", 4, 8, 3, 3, scale=0.2, seed=1)],
        opset=opset,
    )


def loud() -> onnx.ModelProto:
    """An activation of about 1e5 in the middle, scaled back after it."""
    return graph(
        [
            conv("image", "w1", "a"),
            helper.make_node("Mul", ["a", "up"], ["b"], name="louder"),
            helper.make_node("Mul", ["b", "down"], ["c"], name="softer"),
            conv("c", "w2", "logits"),
        ],
        [
            *(weights("w1", 8, 3, 3, 3, scale=0.3), weights("w2", 4, 8, 3, 3, scale=0.2, seed=1)),
            *(constant("up", 3e4), constant("down", 1 / 3e4)),
        ],
    )


def run(model: onnx.ModelProto, image: NDArray[Any], output: str = "logits") -> NDArray[Any]:
    """What ONNX Runtime's CPU provider gives."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[Any] = session.run([output], {"image": image})[0]
    return found


def image(*shape: int) -> NDArray[np.float32]:
    """Noise, like a normalised frame."""
    return np.random.default_rng(7).standard_normal(shape or (2, 3, 16, 24)).astype(np.float32)


def relative_error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """L2."""
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    return float(np.linalg.norm(expected - found) / np.linalg.norm(expected))
