"""Between which values the tensors of an FP32 graph lie on real frames: what INT8 spreads its 256 steps over."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydantic import TypeAdapter

from segpipe.documents import Form
from segpipe.errors import DataError, ExportError
from stages.graphs.int8_layers import Layer
from stages.graphs.ranges import activations
from stages.graphs.running import opened
from stages.graphs.types import at_own_batch, element_types, is_float

Method = Literal["minmax", "percentile"]

_RANGES = Form("ranges of training", TypeAdapter(dict[str, tuple[float, float]]), ExportError)
_CUT = 5e-5  # of the values of a frame, at either end, beyond what `percentile` spans
_SAMPLED = 1 << 18  # values of a tensor and frame that it looks at


@dataclass(frozen=True)
class Span:
    """The least and the greatest value of a tensor."""

    low: float
    high: float

    @property
    def largest(self) -> float:
        """Magnitude."""
        return max(abs(self.low), abs(self.high))

    @property
    def is_flat(self) -> bool:
        """Whether nothing was seen to vary: there is nothing to spread steps over."""
        return not self.high > self.low


def spans(model: onnx.ModelProto, tensors: Iterable[NDArray[Any]], input_name: str, method: Method) -> dict[str, Span]:
    """Of the input and every FP32 activation over all tensors, batch 1 each; one frame is in memory at a time."""
    names = [name for name in activations(model) if name]
    if is_float(element_types(model), input_name):
        names = [input_name, *names]
    gauge = _extremes if method == "minmax" else _quantiles
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    measured = gauge(model, names, input_name)
    count = varied = 0
    for tensor in tensors:
        count, varied = count + 1, varied + bool(np.ptp(tensor) > 0)
        for name, pair in zip(names, measured(tensor), strict=True):
            seen[name].append(pair)
    _refuse_dull(count, varied)
    found = {name: _joined(pairs, method) for name, pairs in seen.items()}
    _refuse_endless(found, model)
    return found


def trained_spans(layers: Iterable[Layer], ranges: bytes) -> dict[str, Span]:
    """What training rounded each layer's input with, by that tensor. Folding moves names of modules, so a layer is
    known by its weights."""
    found: dict[str, Span] = {}
    known = _RANGES.read(ranges, "train/ranges.json", "train again")
    for layer in layers:
        name = layer.weights.partition(".weight")[0]
        if name in known:
            low, high = known[name]
            before = found.get(layer.source, Span(low, high))
            found[layer.source] = Span(min(low, before.low), max(high, before.high))
    if not found:
        raise ExportError("no layer of the graph is known by a range of training's", hint='set compress.int8 = "ptq"')
    return found


def _refuse_dull(count: int, varied: int) -> None:
    if not count:
        raise DataError("there are no calibration frames", hint="give [data] a train split, or set compress.int8='off'")
    if not varied:
        raise DataError(
            f"all {count} calibration frames are of one colour: they tell no ranges",
            hint="look at the train split's images",
        )


def _refuse_endless(found: dict[str, Span], model: onnx.ModelProto) -> None:
    """What is no number has no range."""
    for node in model.graph.node:
        for name in node.output:
            if name in found and not np.isfinite([found[name].low, found[name].high]).all():
                raise ExportError(
                    f"'{name}' of node '{node.name}' is no finite number on calibration frames",
                    hint="train anew, or look at the frames: the FP32 network itself overflows there",
                )


def _joined(pairs: Sequence[tuple[float, float]], method: Method) -> Span:
    """All that was seen; of percentiles the mean over frames, so that one odd frame does not decide."""
    low, high = np.asarray(pairs, np.float64).T
    if method == "minmax":
        return Span(float(low.min()), float(high.max()))
    return Span(float(low.mean()), float(high.mean()))


def _extremes(model: onnx.ModelProto, names: Sequence[str], input_name: str) -> Any:
    """Two numbers a tensor leave the graph. ReduceMax does not see NaN, so a sum goes with them."""
    gauged = onnx.ModelProto()
    gauged.CopyFrom(model)
    graph = gauged.graph
    del graph.output[:]
    for name in names:
        for operator in ("ReduceMin", "ReduceMax", "ReduceSum"):
            made = f"{name} {operator}"
            graph.node.append(helper.make_node(operator, [name], [made], name=made, keepdims=0))
            graph.output.append(helper.make_tensor_value_info(made, TensorProto.FLOAT, []))
    run = opened(gauged)

    def measured(tensor: NDArray[Any]) -> list[tuple[float, float]]:
        values = [float(value) for value in run({input_name: at_own_batch(model, tensor)})]
        return [
            (low, high) if not np.isnan(total) else (float("nan"), float("nan"))
            for low, high, total in zip(values[::3], values[1::3], values[2::3], strict=True)
        ]

    return measured


def _quantiles(model: onnx.ModelProto, names: Sequence[str], input_name: str) -> Any:
    """All values leave the graph; of large tensors every so many are looked at."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != input_name)
    run = opened(shown)

    def measured(tensor: NDArray[Any]) -> list[tuple[float, float]]:
        whole = at_own_batch(model, tensor)
        values = dict(zip([v.name for v in shown.graph.output], run({input_name: whole}), strict=True))
        return [_cut({**values, input_name: whole}[name]) for name in names]

    return measured


def _cut(values: NDArray[Any]) -> tuple[float, float]:
    flat = values.reshape(-1)
    step = -(-flat.size // _SAMPLED) or 1
    low, high = np.quantile(flat[::step], (_CUT, 1 - _CUT))
    return float(low), float(high)
