"""What a node of an ONNX graph is called, and which PyTorch module and source line it came from."""

import ast
from collections.abc import Iterable

import onnx

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
SOURCE_LINE = "segpipe.source"


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a name of its own, in place; names that are there and unique stay."""
    taken: set[str] = set()
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        node.name = name


def metadata(node: onnx.NodeProto, key: str) -> str:
    """One metadata value of a node; empty where there is none."""
    return next((entry.value for entry in node.metadata_props if entry.key == key), "")


def modules_of(node: onnx.NodeProto) -> list[str]:
    """The PyTorch modules around a node, outermost first, without the root and the operator itself."""
    scopes = metadata(node, NAME_SCOPES)
    try:
        names = ast.literal_eval(scopes) if scopes else []
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # a stranger's graph may say anything
        return []
    return [name for name in names[:-1] if name and isinstance(name, str)] if isinstance(names, list) else []


def module_of(node: onnx.NodeProto) -> str:
    """The innermost module a node belongs to; empty where that is not known."""
    return next(reversed(modules_of(node)), "")


def belongs_to(node: onnx.NodeProto, name: str) -> bool:
    """Whether `name` is the node, a module around it, or a module whose weights it uses (folding moves scopes)."""
    return node.name == name or name in modules_of(node) or _any_starts(node.input, f"{name}.")


def describe(node: onnx.NodeProto) -> str:
    """`Conv node_conv2d (module head, models/net.py:12)`: as much as is known."""
    module, line = module_of(node), metadata(node, SOURCE_LINE)
    known = ", ".join([f"module {module}"] * bool(module) + [line] * bool(line))
    return f"{node.op_type} {node.name}" + (f" ({known})" if known else "")


def _any_starts(names: Iterable[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
