"""Nodes in the order of what they need: ONNX asks for it, and scripts that cut graphs leave them in any."""

from collections import defaultdict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

import onnx

from segpipe.errors import InputError


def sort_graph(model: onnx.ModelProto, source: str) -> None:
    """Sort the nodes of the graph, of its functions, and of branches and bodies, in place; sorted ones stay."""
    for owner in (model.graph, *model.functions):
        _sort(owner, source)


def names_inside(node: onnx.NodeProto) -> set[str]:
    """Every name that a node's subgraphs take from around them."""
    names: set[str] = set()
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            used = {value.name for value in attribute.g.output}
            for inner in attribute.g.node:
                used.update(inner.input)
                used |= names_inside(inner)
            names |= used - {name for inner in attribute.g.node for name in inner.output}
    return names


def _sort(owner: onnx.GraphProto | onnx.FunctionProto, source: str) -> None:
    for node in owner.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _sort(attribute.g, source)
    order = _order(owner.node, source)
    if order != sorted(order):
        nodes = [onnx.NodeProto.FromString(owner.node[index].SerializeToString()) for index in order]
        del owner.node[:]
        owner.node.extend(nodes)


def _order(nodes: Sequence[onnx.NodeProto], source: str) -> list[int]:
    """Every node after those whose results it reads; otherwise as they stand."""
    made = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waits = [{made[name] for name in {*node.input, *names_inside(node)} if name in made} for node in nodes]
    readers = defaultdict(list)
    for index, needed in enumerate(waits):
        for one in needed:
            readers[one].append(index)
    ready = [index for index, needed in enumerate(waits) if not needed]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(heappop(ready))
        for reader in readers[order[-1]]:
            waits[reader].discard(order[-1])
            if not waits[reader]:
                heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = nodes[min({*range(len(nodes))} - {*order})]
        raise InputError(
            f"{source}: its nodes form a circle: {stuck.op_type} '{stuck.name}' needs what is made from its own result",
            hint="export it again",
        )
    return order
