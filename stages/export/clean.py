"""Takes out of an ONNX graph what names the machine that made it, and keeps what names the network's modules."""

import re
import sys
from pathlib import Path
from typing import Any

import onnx

from stages.graphs.naming import NAME_SCOPES, SOURCE_LINE, metadata

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite the metadata in place: module scopes and `file:line` stay, stack traces and paths go."""
    for node in model.graph.node:
        source = metadata(node, SOURCE_LINE) or _source_line(metadata(node, _STACK_TRACE))
        _replace(node.metadata_props, {NAME_SCOPES: metadata(node, NAME_SCOPES), SOURCE_LINE: source})
        node.ClearField("doc_string")
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        _replace(value.metadata_props, {})
        value.ClearField("doc_string")
    for owner in (model, graph, *model.functions):
        _replace(owner.metadata_props, {})
        owner.ClearField("doc_string")
    model.producer_version = model.producer_version.partition("+")[0]
    return model


def _replace(properties: Any, wanted: dict[str, str]) -> None:
    del properties[:]
    for key, value in wanted.items():
        if value:
            properties.add(key=key, value=value)


def _source_line(trace: str) -> str:
    """The innermost line outside PyTorch, as `package/file.py:12`: enough to find it, and no machine's path."""
    frames = [match for match in _FRAME.finditer(trace) if "site-packages/torch/" not in match["file"]]
    return f"{_as_imported(Path(frames[-1]['file']))}:{frames[-1]['line']}" if frames else ""


def _as_imported(file: Path) -> str:
    """The file as Python's import path knows it; a folder's own name may be a person's."""
    roots = [Path(entry).resolve() for entry in sys.path]
    inside = [root for root in roots if file.is_relative_to(root) and (file.parent == root or _is_package(file, root))]
    return file.relative_to(max(inside, key=lambda root: len(root.parts))).as_posix() if inside else file.name


def _is_package(file: Path, root: Path) -> bool:
    """Whether every folder between the two can be a package's name."""
    return all(part.isidentifier() for part in file.parent.relative_to(root).parts) and root != Path("/")
