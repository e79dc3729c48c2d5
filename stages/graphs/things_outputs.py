"""Outputs of a stranger's network for things: found by the contract's names, and of the form that it says."""

import onnx
from onnx import TensorProto, ValueInfoProto

from segpipe.contract.schema import InstanceContract
from segpipe.errors import ContractError
from stages.graphs.outputs import named, sides_of, type_name
from stages.graphs.types import dimensions, skeleton

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16}
_LABELS = _FLOATS | {TensorProto.INT32, TensorProto.INT64}
_STATIC = (
    "end the graph in the best K rows of each frame, padded with scores of 0 where there are fewer: rows that come and "
    "go (NonZero, NonMaxSuppression) have no static form that every backend takes"
)


def outputs_of_things(model: onnx.ModelProto, contract: InstanceContract, source: str) -> list[ValueInfoProto]:
    """In the contract's order. What rows are picked from may be any tensor of the graph, and becomes an output."""
    if not contract.compared_names:
        raise ContractError(
            f"{source}: the contract names no tensor that the gate could compare place by place",
            hint="give dense_names the tensors BxCxhxw from which rows are picked, outputs or inside of the graph",
        )
    rows = (contract.boxes_name, contract.scores_name, contract.labels_name)
    found = [named(model.graph.output, name, f"{source}: output", key) for name, key in zip(rows, _KEYS, strict=True)]
    if contract.masks != "none":
        found.append(named(model.graph.output, contract.masks_name, f"{source}: output", "masks_name"))
    _check_rows(found, contract, source)
    inside = _inside(model)
    found += [named(inside, name, f"{source}: tensor", "dense_names") for name in contract.compared_names]
    for value in found[len(found) - len(contract.compared_names) :]:
        channels = len(contract.classes) if value.name == contract.semantic_name else None
        _check_map(value, channels, source)
    return found


_KEYS = ("boxes_name", "scores_name", "labels_name")


def _check_rows(rows: list[ValueInfoProto], contract: InstanceContract, source: str) -> None:
    wanted = {0: (3, "BxKx4", _FLOATS), 1: (2, "BxK", _FLOATS), 2: (2, "BxK", _LABELS), 3: (4, "BxKxhxw", _FLOATS)}
    for number, value in enumerate(rows):
        dims, form, kinds = wanted[number]
        kind, sides = value.type.tensor_type.elem_type, dimensions(value)
        if kind not in kinds:
            raise ContractError(
                f"{source}: output '{value.name}' is {type_name(kind)}, which its kind of row is not",
                hint="cast it in the graph, or name another tensor in the contract",
            )
        if len(sides) != dims:
            raise ContractError(
                f"{source}: output '{value.name}' has {len(sides)} dimensions, the contract's is {form}",
                hint="give it the batch axis in front that it lacks" if len(sides) == dims - 1 else _STATIC,
            )
        if sides[1] != contract.top:
            raise ContractError(
                f"{source}: output '{value.name}' has {sides[1] or 'any number of'} rows, the contract's top is "
                f"{contract.top}",
                hint=f"set top = {sides[1]}" if sides[1] else _STATIC,
            )
    if dimensions(rows[0])[2] not in (None, 4):
        raise ContractError(
            f"{source}: output '{rows[0].name}' has {dimensions(rows[0])[2]} numbers a row, a box has 4",
            hint="boxes are left, top, right and bottom edge in pixels of the network's input",
        )


def _check_map(value: ValueInfoProto, channels: int | None, source: str) -> None:
    kind = value.type.tensor_type.elem_type
    if kind not in _FLOATS:
        raise ContractError(
            f"{source}: tensor '{value.name}' is {type_name(kind)}, a map holds numbers with a point",
            hint="name another tensor in dense_names",
        )
    found = sides_of(value, 4, source, "tensor")[1]
    if channels is not None and found not in (None, channels):
        raise ContractError(
            f"{source}: output '{value.name}' has {found} channels for {channels} classes",
            hint="name every class of the semantic output in classes, the ground included",
        )


def _inside(model: onnx.ModelProto) -> list[ValueInfoProto]:
    """Every tensor whose type and shape can be known."""
    graph = onnx.shape_inference.infer_shapes(skeleton(model)).graph
    return [*model.graph.output, *graph.value_info]
