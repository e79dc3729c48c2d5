"""Model-local functions: what their nodes are, how many they become, and the graph without them."""

from collections.abc import Iterable, Iterator

import onnx
import onnx.inliner

from segpipe.errors import InputError

LARGEST_NODES = 1_000_000  # after inlining; large networks have some ten thousand
_Name = tuple[str, str]  # domain and operator


def inlined(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Every call replaced by its nodes. Calls of calls double quickly: they are counted before any is copied."""
    functions = {(function.domain, function.name): function for function in model.functions}
    found = _size(model.graph.node, functions, {}, source)
    if found > LARGEST_NODES:
        raise InputError(
            f"{source}: its functions call each other so often that they become {found:.3g} nodes, "
            f"more than {LARGEST_NODES:,}",
            hint="export it with its functions inlined, or as another graph",
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except (onnx.checker.ValidationError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: its functions cannot be inlined: {reason}", hint="export it again") from error


def every_node(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Those in the branches and bodies of control flow too."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from every_node(attribute.g.node)


def _size(
    nodes: Iterable[onnx.NodeProto], functions: dict[_Name, onnx.FunctionProto], sizes: dict[_Name, int], source: str
) -> int:
    """Nodes after inlining; `sizes` keeps what a function becomes, 0 while it is being counted."""
    total = 0
    for node in every_node(nodes):
        name = (node.domain, node.op_type)
        if name in functions and name not in sizes:
            sizes[name] = 0
            sizes[name] = _size(functions[name].node, functions, sizes, source)
        elif sizes.get(name) == 0 and functions[name].node:
            raise InputError(f"{source}: function '{node.op_type}' calls itself", hint="export it again")
        total += sizes.get(name, 1)
    return total
