"""Takes out of an ONNX graph what names the machine that made it, and keeps what names the network's modules."""

import re
from typing import Any

import onnx

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
SOURCE_LINE = "segpipe.source"

_STACK_TRACE = "pkg.torch.onnx.stack_trace"
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Rewrite the metadata in place: module scopes and `file:line` stay, stack traces and paths go."""
    for node in model.graph.node:
        kept = {entry.key: entry.value for entry in node.metadata_props}
        wanted = {NAME_SCOPES: kept.get(NAME_SCOPES), SOURCE_LINE: _source_line(kept.get(_STACK_TRACE, ""))}
        _replace(node.metadata_props, wanted)
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


def _replace(properties: Any, wanted: dict[str, str | None]) -> None:
    del properties[:]
    for key, value in wanted.items():
        if value:
            properties.add(key=key, value=value)


def _source_line(trace: str) -> str | None:
    """The innermost line outside PyTorch, as `folder/file.py:12`: enough to find it, and no machine's path."""
    frames = [match for match in _FRAME.finditer(trace) if "site-packages/torch/" not in match["file"]]
    if not frames:
        return None
    innermost = frames[-1]
    return "/".join(innermost["file"].split("/")[-2:]) + f":{innermost['line']}"
