"""What runs, and is no network to deploy: nodes that still train, that draw lots, or that quantise as they go."""

from collections.abc import Callable, Sequence
from itertools import chain

import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from segpipe.errors import InputError
from stages.graphs.functions import every_node
from stages.graphs.types import opset_of

_EVAL = "export the network in evaluation mode: model.eval() in PyTorch, training=False in Keras"
_LOTS = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
_DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}
_TRAINING_INPUT = 2  # of Dropout, since opset 12
_ONE_OUTPUT = 14  # opset from which an attribute says that a batch norm trains; before, its other outputs did


def refuse_unfit(model: onnx.ModelProto, source: str) -> None:
    """InputError that names the nodes and what to export instead. What the output does not need is gone by now."""
    known = _constants(model)
    trains_by_outputs = opset_of(model) < _ONE_OUTPUT
    rules: tuple[tuple[Callable[[NodeProto], bool], str, str], ...] = (
        (
            lambda node: _normalises_by_batch(node, trains_by_outputs),
            "still trains (training_mode = 1): it normalises by the frames of its batch",
            _EVAL,
        ),
        (
            lambda node: _drops(node, known),
            "is live (training_mode is not a stored false): it drops other numbers each time",
            _EVAL,
        ),
        (lambda node: node.op_type in _LOTS, "draws lots: the same frame gets another answer each time", _EVAL),
        (
            lambda node: node.op_type in _DYNAMIC,
            "quantises dynamically: its scale comes from each batch, and TensorRT has no such operator",
            "import the network as it was before dynamic quantisation",
        ),
    )
    nodes = [*every_node(model.graph.node)]
    for applies, words, hint in rules:
        if found := [node for node in nodes if applies(node)]:
            raise InputError(f"{source}: {_named(found)} {words}", hint=hint)


def _named(nodes: Sequence[NodeProto]) -> str:
    more = f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else ""
    return f"{nodes[0].op_type} '{nodes[0].name or nodes[0].output[0]}'{more}"


def _normalises_by_batch(node: NodeProto, by_outputs: bool) -> bool:
    if node.op_type != "BatchNormalization":
        return False
    flagged = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    return flagged or (by_outputs and any(node.output[1:]))


def _drops(node: NodeProto, known: dict[str, TensorProto]) -> bool:
    if node.op_type != "Dropout" or len(node.input) <= _TRAINING_INPUT or not node.input[_TRAINING_INPUT]:
        return False
    stored = known.get(node.input[_TRAINING_INPUT])
    return stored is None or bool(numpy_helper.to_array(stored).any())


def _constants(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Stored values by name, the graph's weights and what Constant nodes hold."""
    made = (
        (node.output[0], attribute.t)
        for node in every_node(model.graph.node)
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    )
    return dict(chain(((tensor.name, tensor) for tensor in model.graph.initializer), made))
