"""Somebody else's ONNX file, from anywhere: read whole, with its external data, or refused with the reason."""

from itertools import chain
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper, helper

from segpipe.errors import InputError
from segpipe.rundir.storage import explained_reads
from stages.graphs.functions import every_node, inlined
from stages.graphs.sorting import sort_graph
from stages.graphs.text import refuse_other_text
from stages.graphs.types import elements

LARGEST_BYTES = 2**31 - 1  # what one protobuf message may hold
OURS = {"", "ai.onnx"}  # domains of ONNX's own operators

_NAMED = 8  # kinds of custom operators in a message, after the first
_WITHOUT = {
    "com.microsoft": "ONNX Runtime's optimiser or quantiser made this file: import the one that it was given",
    "mmdeploy": "export for the backend `onnxruntime` without MMDeploy's own operators",
    "ai.onnx.contrib": "leave pre- and post-processing out of the graph: the contract describes them",
}
"""By domain: how to get the network without its operators."""

_REFUSALS = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError)
"""What ONNX's checker raises; the builtins for numbers that name no type."""


def parse(path: Path) -> onnx.ModelProto:
    """The file alone, without its external data and not checked yet: readable text, known operators, sane sizes."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "is not a file" if path.exists() else "does not exist"
        raise InputError(f"{path} {what}", hint="name an ONNX file")
    refuse_too_large(path.stat().st_size, str(path))
    model = _parsed(path)
    refuse_other_text(model, str(path))
    _refuse_future_opset(model, path)
    _refuse_custom_operators(model, path)
    refuse_too_large(weights_bytes(model), str(path))
    return model


def complete(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """With the weights in memory and functions inlined, checked as a whole. No file outside its folder is read."""
    try:
        _refuse_outside(model, path)
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except InputError:
        raise
    except (OSError, *_REFUSALS) as error:  # also offsets that are no numbers, names that are none
        raise InputError(
            f"{path}: its external data cannot be read: {_first_line(error)}", hint="put it beside the file"
        ) from error
    _write_one_domain(model)
    sort_graph(model, str(path))
    if model.functions:
        model = inlined(model, str(path))
    check(model, str(path))
    return model


def check(model: onnx.ModelProto, source: str) -> None:
    """ONNX's own checker with full shape inference, as one line."""
    refuse_too_large(weights_bytes(model), source)
    try:
        onnx.checker.check_model(model, full_check=True)
    except _REFUSALS as error:
        raise InputError(f"{source} is not valid ONNX: {_first_line(error)}", hint="export it again") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def refuse_too_large(size_bytes: int, source: str) -> None:
    """Protobuf itself fails beyond its limit without a word of why."""
    if size_bytes > LARGEST_BYTES:
        raise InputError(
            f"{source} holds {size_bytes / 1e9:.1f} GB, one ONNX file can hold {LARGEST_BYTES / 1e9:.1f} GB",
            hint="use a smaller network; segpipe keeps weights inside the file",
        )


def to_bytes(model: onnx.ModelProto) -> bytes:
    """The same bytes for the same model, in every process."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def weights_bytes(model: onnx.ModelProto) -> int:
    """By their types and sides: whether they are in memory, in another file, or too many for protobuf to count."""
    known = helper.get_all_tensor_dtypes()
    kinds = [(tensor, tensor.data_type) for tensor in model.graph.initializer if tensor.data_type in known]
    return sum(elements(tensor) * helper.tensor_dtype_to_np_dtype(kind).itemsize for tensor, kind in kinds)


def _parsed(path: Path) -> onnx.ModelProto:
    hint = "it was cut off or is another format"
    try:
        with explained_reads(path):
            model = onnx.load(path, format="protobuf", load_external_data=False)  # or it goes by the suffix
    except DecodeError as error:
        size = path.stat().st_size
        raise InputError(f"{path} is not ONNX: its {size} bytes cannot be parsed", hint=hint) from error
    if not model.graph.node or not model.opset_import:
        raise InputError(f"{path} is not ONNX: it holds no graph", hint=hint)
    return model


def _refuse_future_opset(model: onnx.ModelProto, path: Path) -> None:
    """The checker takes any number, and then checks by the newest operators it knows."""
    newest = onnx.defs.onnx_opset_version()
    versions = sorted({entry.version for entry in model.opset_import if entry.domain in OURS})
    if len(versions) > 1:
        raise InputError(f"{path} needs opsets {versions[0]} and {versions[-1]} at once", hint="export it again")
    for entry in model.opset_import:
        if entry.domain in OURS and not 1 <= entry.version <= newest:
            raise InputError(
                f"{path} needs opset {entry.version}, the onnx installed here knows 1 to {newest}",
                hint="export it with an opset that ONNX Runtime runs, 18 for example",
            )


def _write_one_domain(model: onnx.ModelProto) -> None:
    """Both names of ONNX's own domain are allowed; not every tool knows the longer one."""
    for owner in (model, *model.functions):
        for entry in owner.opset_import:
            entry.domain = "" if entry.domain in OURS else entry.domain
    for node in chain(every_node(model.graph.node), *(every_node(function.node) for function in model.functions)):
        node.domain = "" if node.domain in OURS else node.domain


def _refuse_custom_operators(model: onnx.ModelProto, path: Path) -> None:
    """Operators that ONNX does not define run in one tool and not in the next. All kinds are named, each once."""
    local = {(function.domain, function.name) for function in model.functions}
    found: dict[str, onnx.NodeProto] = {}
    for node in chain(every_node(model.graph.node), *(every_node(function.node) for function in model.functions)):
        foreign = node.domain not in OURS and (node.domain, node.op_type) not in local
        if foreign or (node.domain in OURS and not onnx.defs.has(node.op_type)):
            found.setdefault(f"{node.domain}::{node.op_type}" if node.domain else node.op_type, node)
    if not found:
        return
    (name, first), *others = found.items()
    more = f"; so are {', '.join(other for other, _ in others[:_NAMED])}" if others else ""
    raise InputError(
        f"{path}: node '{first.name}' is a custom operator, {name}{more}",
        hint=_WITHOUT.get(first.domain, "export the network with operators of ONNX itself (domain ai.onnx)"),
    )


def _refuse_outside(model: onnx.ModelProto, path: Path) -> None:
    """External data may lie beside the file or below, nowhere else: a model must not read other people's files."""
    folder = path.parent.resolve()
    for tensor in model.graph.initializer:  # those inside attributes are held to it by onnx itself
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        if not (folder / location).resolve().is_relative_to(folder):
            raise InputError(
                f"{path}: tensor '{tensor.name}' lies outside its folder, in {location}",
                hint="keep external data beside the ONNX file",
            )
