"""Makes somebody else's graph ours: one input, one output, compared with the contract that describes it."""

import onnx
from onnx import TensorProto, ValueInfoProto

from segpipe.contract.schema import METADATA_KEY, AnyContract, Contract, FrameContract, InstanceContract
from segpipe.errors import ContractError
from stages.graphs.answers import AXES
from stages.graphs.last_activation import refuse_activation
from stages.graphs.naming import name_nodes
from stages.graphs.outputs import named, sides_of, type_name
from stages.graphs.sorting import names_inside
from stages.graphs.stored_tensors import refuse_unreadable
from stages.graphs.things_outputs import outputs_of_things
from stages.graphs.unfit import refuse_unfit

_INPUT_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
_SCORES = {TensorProto.FLOAT, TensorProto.FLOAT16}
_WIDENED = {TensorProto.INT8, TensorProto.INT16, TensorProto.UINT16}
"""Labels of types that no kernel of the runtime reads: the graph gets a cast to int32."""
_LABELS = {TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64} | _SCORES | _WIDENED


def adopt(model: onnx.ModelProto, contract: AnyContract, source: str) -> onnx.ModelProto:
    """Keep what leads to the contract's outputs, check it against the contract, and embed that. Changes `model`."""
    graph = model.graph
    if isinstance(contract, InstanceContract):
        outputs = outputs_of_things(model, contract, source)
    else:
        outputs = [named(graph.output, contract.output_name, f"{source}: output", "output_name")]
    del graph.output[:]
    graph.output.extend(outputs)
    _drop_unused(graph)
    model.ClearField("training_info")
    names = [node.name for node in graph.node if node.name]
    if len({*names}) < len(names):  # ONNX Runtime takes none twice
        name_nodes(model)
    refuse_unreadable(model, source)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    given = named(inputs, contract.input_name, f"{source}: input", "input_name")
    if len(inputs) > 1:
        others = ", ".join(value.name for value in inputs if value.name != given.name)
        raise ContractError(f"{source} needs other inputs too: {others}", hint="bake them into the graph as constants")
    del graph.input[:]
    graph.input.append(given)
    _check_input(given, contract, source)
    if not isinstance(contract, InstanceContract):
        _check_output(outputs[0], contract, source)
        refuse_activation(graph, contract, source)
    refuse_unfit(model, source)
    if not isinstance(contract, InstanceContract) and contract.output_kind == "labels":
        _widen(graph)
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return model


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and weights that the output does not need."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(names_inside(node))
            kept.append(node)
    nodes, weights = kept[::-1], [tensor for tensor in graph.initializer if tensor.name in needed]
    graph.ClearField("sparse_initializer")  # no operator takes one
    inputs = [value for value in graph.input if value.name in needed]
    for field, values in (("node", nodes), ("initializer", weights), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        graph.ClearField(field)
        getattr(graph, field).extend(copies)


def _check_input(value: ValueInfoProto, contract: FrameContract, source: str) -> None:
    kind = value.type.tensor_type.elem_type
    if kind != _INPUT_TYPES[contract.input_dtype]:
        raise ContractError(
            f"{source}: input '{value.name}' is {type_name(kind)}, the contract says {contract.input_dtype}",
            hint="change input_dtype in the contract",
        )
    sides = sides_of(value, 4, source, "input")
    channels, height, width = (sides[axis] for axis in AXES[contract.input_layout])
    if channels not in (None, contract.channels):
        raise ContractError(
            f"{source}: input '{value.name}' has {channels} channels in layout {contract.input_layout}, "
            f"the contract says {contract.channels}",
            hint="change channels or input_layout in the contract",
        )
    wanted = contract.network_size or (None, None)
    if any(fixed not in (None, side) for fixed, side in zip((height, width), wanted, strict=True)):
        raise ContractError(
            f"{source}: input '{value.name}' is fixed at {height}x{width} pixels, the contract says "
            f"{'any size' if contract.network_size is None else 'x'.join(map(str, contract.network_size))}",
            hint=f"set network_size = [{height}, {width}] and fit = 'stretch' or 'letterbox'",
        )


def _check_output(value: ValueInfoProto, contract: Contract, source: str) -> None:
    kind, labels = value.type.tensor_type.elem_type, contract.output_kind == "labels"
    if kind not in (_LABELS if labels else _SCORES):
        raise ContractError(
            f"{source}: output '{value.name}' is {type_name(kind)}, which no {contract.output_kind} are",
            hint="change output_kind or output_name in the contract",
        )
    if labels:
        return
    channels = sides_of(value, 4, source, "output")[AXES[contract.output_layout][0]]
    if channels not in (None, contract.score_channels):
        raise ContractError(
            f"{source}: output '{value.name}' has {channels} channels in layout {contract.output_layout}, "
            f"the contract's {len(contract.classes)} classes need {contract.score_channels}",
            hint="set output_kind = 'sigmoid' for raw scores, or 'probabilities' and output_channels = 1"
            if channels == 1 and len(contract.classes) == 2
            else "change classes, output_kind or output_layout in the contract",
        )


def _widen(graph: onnx.GraphProto) -> None:
    """Small integers at the output become int32. Nothing else reads the output: what it does not need is gone."""
    output = graph.output[0]
    if output.type.tensor_type.elem_type not in _WIDENED:
        return
    narrow, taken = f"{output.name} narrow", {name for node in graph.node for name in node.output}
    while narrow in taken:
        narrow += "_"
    for node in graph.node:
        node.output[:] = [narrow if name == output.name else name for name in node.output]
    graph.node.append(
        onnx.helper.make_node("Cast", [narrow], [output.name], name=f"{output.name} widened", to=TensorProto.INT32)
    )
    output.type.tensor_type.elem_type = TensorProto.INT32
