"""One graph from frame to mask: the contract's pre- and post-processing as operators of ONNX around a network.

For programs that run ONNX and cannot run segpipe. Scores exist at the frame's size here, which the runtime avoids.
"""

import numpy as np
import onnx
from onnx import TensorProto, compose, helper

from segpipe.contract.schema import HALF_PIXEL, METADATA_KEY, Contract
from segpipe.errors import ExportError
from segpipe.runtime.preprocess import normalisation
from stages.graphs.lines import Side, blend, frame_taps, nearest, score_taps, sides
from stages.graphs.sheet import Sheet
from stages.graphs.types import dimensions, opset_of

FRAME, MASK, CONFIDENCE = "frame", "mask", "confidence"
"""The graph's tensors: NxHxWxC pixels, and NxHxW each."""
_PREFIX = "network/"
_LEAST_OPSET = 13  # since when axes and limits are inputs
_AXES_AS_INPUT = 18  # of ReduceMax
_TYPES: dict[str, int] = {
    name: helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in ("uint8", "uint16", "float16", "float32")
}
_LARGEST = {"uint8": 255, "uint16": 65535}


def end_to_end(network: onnx.ModelProto, contract: Contract, confidence: bool) -> onnx.ModelProto:
    """Frames of any size to masks; with confidence where the network gives scores."""
    opset = opset_of(network)
    if opset < _LEAST_OPSET:
        raise ExportError(
            f"the end-to-end graph needs opset {_LEAST_OPSET} or later, the network has {opset}",
            hint=f"export the network with opset {_LEAST_OPSET} or later, or leave export.end_to_end off",
        )
    if contract.resize != HALF_PIXEL:
        raise ExportError(
            f"the end-to-end graph resizes by '{HALF_PIXEL}', the contract says '{contract.resize}'",
            hint="leave export.end_to_end off: the runtime resizes as the contract says",
        )
    inner = compose.add_prefix(network, _PREFIX)
    sheet, source = Sheet(), inner.graph.input[0]
    rows, columns = sides(sheet, contract, FRAME)
    _preprocess(sheet, contract, (rows, columns), source.name)
    sheet.nodes.extend(inner.graph.node)
    outputs = _answer(sheet, contract, (rows, columns), inner.graph.output[0], opset if confidence else None)
    batch = dimensions(source)[0] or "batch"
    graph = helper.make_graph(
        sheet.nodes,
        "end to end",
        [helper.make_tensor_value_info(FRAME, _TYPES[contract.dtype], [batch, "height", "width", contract.channels])],
        [helper.make_tensor_value_info(name, kind, [batch, "height", "width"]) for name, kind in outputs.items()],
        [*inner.graph.initializer, *sheet.constants],
    )
    model = helper.make_model(
        graph, opset_imports=network.opset_import, ir_version=network.ir_version, functions=inner.functions
    )
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return model


def blended_values(contract: Contract, height: int, width: int) -> int:
    """How many scores exist at the size of a frame."""
    return 0 if contract.output_kind == "labels" else contract.score_channels * height * width


def _preprocess(sheet: Sheet, contract: Contract, placed: tuple[Side, Side], named: str) -> None:
    """Pixels to the network's input, which is called `named`."""
    values = FRAME
    if contract.fit != "pad":
        for axis, side in enumerate(placed, 1):
            values = blend(sheet, values, axis, frame_taps(sheet, side))
    values = sheet.cast(values, TensorProto.FLOAT)
    if contract.padding is not None:
        values = sheet("Pad", values, _bars(sheet, placed), np.float32(contract.padding))
    if contract.channel_order == "bgr":
        values = sheet("Gather", values, np.arange(contract.channels)[::-1].copy(), axis=3)
    if contract.input_dtype == "uint8":  # takes pixels as they are
        values = sheet("Clip", sheet("Round", values), np.float32(0), np.float32(255))
    else:
        scale, shift = normalisation(contract)
        values = sheet("Add", sheet("Mul", values, scale), shift)
    if contract.fit != "stretch" and contract.padding is None:
        values = sheet("Pad", values, _bars(sheet, placed))
    if contract.input_layout == "nchw":
        values = sheet("Transpose", values, perm=[0, 3, 1, 2])
    sheet.cast(values, _TYPES[contract.input_dtype], named)


def _bars(sheet: Sheet, placed: tuple[Side, Side]) -> str:
    """What lies around the frame on the canvas: of four axes first what is before, then what is behind."""
    before = [side.offset for side in placed]
    behind = [sheet("Sub", sheet("Sub", side.canvas, side.resized), side.offset) for side in placed]
    one_each = [sheet("Unsqueeze", size, np.array([0])) for size in (0, *before, 0, 0, *behind, 0)]
    return sheet("Concat", *one_each, axis=0)


def _answer(
    sheet: Sheet, contract: Contract, placed: tuple[Side, Side], output: onnx.ValueInfoProto, opset: int | None
) -> dict[str, int]:
    """The mask, and the confidence where an opset is given for it; the types of what was written, by name."""
    mask = {MASK: _TYPES[contract.mask_dtype]}
    if contract.output_kind == "labels":
        _labels(sheet, contract, placed, output)
        return mask
    values = sheet.cast(output.name, TensorProto.FLOAT)
    if contract.output_layout == "nhwc":
        values = sheet("Transpose", values, perm=[0, 3, 1, 2])
    for axis, side in ((3, placed[1]), (2, placed[0])):  # columns first, while there are few rows
        values = blend(sheet, values, axis, score_taps(sheet, side, _length(sheet, values, axis)))
    if contract.limit is not None:
        first = sheet("GreaterOrEqual", values, np.float32(contract.limit))
        decided = sheet("Squeeze", first, np.array([1]))
    else:
        decided = sheet("ArgMax", values, axis=1, keepdims=0)
    sheet.cast(decided, mask[MASK], MASK)
    if opset is None:
        return mask
    sheet("Squeeze", _probability(sheet, contract, values, opset), np.array([1]), named=CONFIDENCE)
    return mask | {CONFIDENCE: TensorProto.FLOAT}


def _probability(sheet: Sheet, contract: Contract, values: str, opset: int) -> str:
    """Of the class that was decided on."""
    if contract.limit is not None:
        certain = sheet("Sigmoid", values) if contract.output_kind == "sigmoid" else values
        is_first = sheet("GreaterOrEqual", values, np.float32(contract.limit))
        return sheet("Where", is_first, certain, sheet("Sub", np.float32(1), certain))
    if opset < _AXES_AS_INPUT:
        best = sheet("ReduceMax", values, axes=[1], keepdims=1)
    else:
        best = sheet("ReduceMax", values, np.array([1]), keepdims=1)
    if contract.output_kind == "probabilities":
        return best
    return sheet("Reciprocal", sheet("ReduceSum", sheet("Exp", sheet("Sub", values, best)), np.array([1]), keepdims=1))


def _labels(sheet: Sheet, contract: Contract, placed: tuple[Side, Side], output: onnx.ValueInfoProto) -> None:
    """The nearest label of each pixel; what the mask cannot hold becomes its largest number, which is no class."""
    labels = _without_channel(sheet, contract, output)
    for axis, side in enumerate(placed, 1):
        labels = sheet("Gather", labels, nearest(sheet, side, _length(sheet, labels, axis)), axis=axis)
    labels, largest = sheet.cast(labels, TensorProto.INT64), _LARGEST[contract.mask_dtype]
    held = sheet("And", sheet("GreaterOrEqual", labels, 0), sheet("LessOrEqual", labels, largest))
    sheet.cast(sheet("Where", held, labels, largest), _TYPES[contract.mask_dtype], MASK)


def _without_channel(sheet: Sheet, contract: Contract, output: onnx.ValueInfoProto) -> str:
    """NxHxW of labels that are NxHxW, Nx1xHxW or NxHxWx1."""
    shape = dimensions(output)
    if len(shape) == 3:
        return str(output.name)
    first, second = (3, 1) if contract.output_layout == "nhwc" else (1, 3)
    axis = second if len(shape) == 4 and shape[first] not in {1, None} and shape[second] == 1 else first
    return sheet("Squeeze", output.name, np.array([axis]))


def _length(sheet: Sheet, values: str, axis: int) -> str:
    return sheet("Gather", sheet("Shape", values), axis)
