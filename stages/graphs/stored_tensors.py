"""The numbers that a stranger's graph holds: whether every tensor can be read, and none of them is NaN."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from segpipe.errors import InputError
from stages.graphs.functions import every_node

_SPARSE = {AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS}
_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError)
"""What reading one raises: sides that its bytes do not fill, parts of a tensor, text that is none, types that nobody
knows."""


def refuse_unreadable(model: onnx.ModelProto, source: str) -> None:
    """InputError that names the first tensor which cannot be used."""
    for node in every_node(model.graph.node):
        if any(attribute.type in _SPARSE for attribute in node.attribute):
            raise InputError(f"{source}: tensor '{node.output[0]}' is sparse", hint="export it with dense weights")
    for tensor in _tensors(model.graph):
        _refuse(tensor, source)


def _refuse(tensor: TensorProto, source: str) -> None:
    try:
        values = numpy_helper.to_array(tensor)
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{source}: tensor '{tensor.name}' cannot be read: {reason}", hint="export it again"
        ) from error
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise InputError(
            f"{source}: tensor '{tensor.name}' holds NaN, and so will every answer",
            hint="export a checkpoint whose training did not diverge",
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Weights of the graph, of branches and bodies, and what attributes hold."""
    for inner in _graphs(graph):
        yield from inner.initializer
        for node in inner.node:
            for attribute in node.attribute:
                yield from attribute.tensors
                if attribute.type == AttributeProto.TENSOR:
                    yield attribute.t


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)
