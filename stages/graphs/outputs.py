"""Tensors of a stranger's graph by the names that a contract gives them: found, or what there is instead."""

from collections.abc import Iterable

import onnx
from onnx import ValueInfoProto

from segpipe.errors import ContractError
from stages.graphs.types import dimensions


def named(values: Iterable[ValueInfoProto], name: str, what: str, key: str) -> ValueInfoProto:
    """A copy of the one of this name; a ContractError that says what to write for `key` otherwise."""
    values = [*values]
    for value in values:
        if value.name == name:
            copy = ValueInfoProto()
            copy.CopyFrom(value)
            return copy
    known = ", ".join(value.name for value in values)
    hint = f"set {key} to one of: {known}" if known else "what the contract's output needs are constants alone"
    raise ContractError(f"{what} '{name}' is not in the graph", hint=hint)


def sides_of(value: ValueInfoProto, wanted: int, source: str, what: str) -> list[int | None]:
    """Its sides, None where one is dynamic; refused where they are more or fewer."""
    sides = dimensions(value)
    if len(sides) != wanted:
        raise ContractError(
            f"{source}: {what} '{value.name}' has {len(sides)} dimensions, an image network's has {wanted}",
            hint="name another tensor in the contract",
        )
    return sides


def type_name(kind: int) -> str:
    """As numpy calls it."""
    known = kind in onnx.helper.get_all_tensor_dtypes()
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if known else f"of type number {kind}"
