"""A graph -> INT8 or FP8 for engines: explicit pairs of Q and DQ, symmetric, zero point 0, per-channel weights.

The type of a scale is the type that a DQ gives, so on an FP16 graph scales are FP16 and whatever lies between pairs
stays FP16. Biases stay floats: TensorRT refuses them as integers.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper, version_converter

from stages.graphs.calibrating import Span
from stages.graphs.int8_layers import Layer, along, layers_of, per_channel, residuals
from stages.graphs.types import element_types, opset_of

LEAST_SCALE = 2.0**-14
"""The smallest number that FP16 holds with all its digits: quieter channels get this scale, and fewer steps."""
_TYPED_SCALES = 19  # the opset from which on scales may be FP16, and numbers FP8
_NEWEST_UNCHANGED = 18  # from here to 19 operators only gained what nobody has to use


@dataclass(frozen=True)
class EightBits:
    """A format of 8 bits: its largest number, the same on both sides of 0, for zero points are 0."""

    name: str
    largest: float
    kind: int
    """TensorProto's."""
    needed: float
    """How many of the least FP16 scales a tensor must reach to keep its digits."""

    def is_too_quiet(self, span: Span) -> bool:
        """Whether so little is left of a tensor behind an FP16 scale that its layer is better off in floats."""
        return span.largest < self.needed * LEAST_SCALE

    def narrow(self, steps: NDArray[np.float32], name: str) -> TensorProto:
        """Numbers in units of their scale, rounded to what the format holds."""
        inside = steps.clip(-self.largest, self.largest)
        if self.kind == TensorProto.INT8:
            return numpy_helper.from_array(np.rint(inside).astype(np.int8), name)
        held = np.asarray(inside, np.float32).astype(ml_dtypes.float8_e4m3fn)
        return helper.make_tensor(name, self.kind, held.shape, held.tobytes(), raw=True)


INT8 = EightBits("INT8", 127.0, TensorProto.INT8, 127.0)
FP8 = EightBits("FP8", 448.0, TensorProto.FLOAT8E4M3FN, 1.0)
"""E4M3: steps that grow with the number, so a wide range costs it less than INT8, and a narrow one more."""


@dataclass(frozen=True)
class Written:
    """The graph, and the output channels of each layer whose weights are too quiet for FP16 scales."""

    model: onnx.ModelProto
    quiet: dict[str, int]


def quantised(
    model: onnx.ModelProto,
    spans: Mapping[str, Span],
    chosen: Collection[str],
    suffix: str = "",
    bits: EightBits = INT8,
) -> Written:
    """A new model in which the layers named in `chosen` multiply numbers of 8 bits.

    `spans`: of the FP32 graph's tensors; `suffix`: what an FP16 tensor's name has after theirs.
    """
    half = TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    copy = at_opset(model, _TYPED_SCALES if half or bits is FP8 else opset_of(model))
    writer = _Writer(copy, spans, suffix, bits)
    for layer in layers_of(copy):
        if layer.name in chosen:
            writer.quantise(layer)
    for node, index in residuals(copy):
        writer.quantise_residual(node, index, chosen)
    writer.finish()
    return Written(copy, writer.quiet)


def at_opset(model: onnx.ModelProto, least: int) -> onnx.ModelProto:
    """A copy of at least that opset."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if (own := opset_of(model)) >= least:
        return copy
    if own < _NEWEST_UNCHANGED:
        copy = version_converter.convert_version(model, least)
        copy.metadata_props.extend(model.metadata_props)
        return copy
    for entry in copy.opset_import:
        if entry.domain in {"", "ai.onnx"}:
            entry.version = least
    copy.ir_version = max(copy.ir_version, 9)
    return copy


@dataclass
class _Writer:
    """One graph: which pairs there are, and where they go."""

    model: onnx.ModelProto
    spans: Mapping[str, Span]
    suffix: str
    bits: EightBits
    quiet: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._types = element_types(self.model)
        self._stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._made = {name: node for node in self.model.graph.node for name in node.output}
        self._pairs: dict[str, list[NodeProto]] = {}
        self._weights: dict[str, NodeProto] = {}
        self._tensors: list[TensorProto] = []
        self._done: set[str] = set()

    def quantise(self, layer: Layer) -> None:
        """Its input and its weights."""
        layer.node.input[0] = self._pair(layer.source)
        layer.node.input[1] = self._dequantised(layer)
        self._done.add(layer.name)

    def quantise_residual(self, node: NodeProto, index: int, chosen: Collection[str]) -> None:
        """The branch that joins what a quantised convolution gives: the engine reads it as it is stored, in 8 bits."""
        other = self._made.get(node.input[1 - index])
        if other is not None and other.name in chosen and self._name(node.input[index]) in self.spans:
            node.input[index] = self._pair(node.input[index])

    def finish(self) -> None:
        """Pairs behind what makes their tensors, and only the weights that are still read."""
        graph = self.model.graph
        nodes: list[NodeProto] = [*self._weights.values()]
        for value in graph.input:
            nodes += self._pairs.get(value.name, ())
        for node in graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self._pairs.get(name, ())
        used = {name for node in nodes for name in node.input}
        kept = [tensor for tensor in (*graph.initializer, *self._tensors) if tensor.name in used]
        final = onnx.GraphProto(name=graph.name)
        final.node.extend(nodes)
        final.initializer.extend(kept)
        final.input.extend(graph.input)
        final.output.extend(graph.output)
        graph.CopyFrom(final)

    def _pair(self, name: str) -> str:
        """A tensor through 8 bits and back, once for all that read it."""
        if name not in self._pairs:
            largest = self.spans[self._name(name)].largest
            scale = self._scale(np.asarray(largest / self.bits.largest, np.float32), self._types[name])
            self._tensors += [
                numpy_helper.from_array(scale, f"{name} scale"),
                self.bits.narrow(np.zeros((), np.float32), f"{name} zero"),
            ]
            ends = [f"{name} scale", f"{name} zero"]
            self._pairs[name] = [
                helper.make_node("QuantizeLinear", [name, *ends], [f"{name} 8"], f"quantise {name}"),
                helper.make_node("DequantizeLinear", [f"{name} 8", *ends], [f"{name} back"], f"dequantise {name}"),
            ]
        return f"{name} back"

    def _dequantised(self, layer: Layer) -> str:
        """Weights in 8 bits behind a DQ. They are rounded by the scale as it is stored, so its rounding costs
        nothing."""
        name = layer.weights
        if name not in self._weights:
            tensor = self._stored[name]
            values = numpy_helper.to_array(tensor).astype(np.float32)
            largest = per_channel(values, layer.axis)
            scale = self._scale(largest / np.float32(self.bits.largest), tensor.data_type)
            quiet = int(((largest > 0) & (largest < self.bits.needed * LEAST_SCALE)).sum())
            if scale.dtype == np.float16 and quiet:
                self.quiet[layer.name] = quiet
            steps = values / along(scale.astype(np.float32), layer.axis, values.ndim)
            ends = [f"{name} scale", f"{name} zero"]
            self._tensors += [
                self.bits.narrow(steps, f"{name} 8"),
                numpy_helper.from_array(scale, ends[0]),
                self.bits.narrow(np.zeros(scale.shape, np.float32), ends[1]),
            ]
            self._weights[name] = helper.make_node(
                "DequantizeLinear", [f"{name} 8", *ends], [f"{name} back"], f"dequantise {name}", axis=layer.axis
            )
        return f"{name} back"

    def _scale(self, wanted: NDArray[np.float32], kind: int) -> NDArray[Any]:
        """In the type of what it scales; never 0."""
        if kind == TensorProto.FLOAT16:
            return np.asarray(np.maximum(wanted, LEAST_SCALE), np.float16)
        return np.asarray(np.maximum(wanted, 1e-30), np.float32)

    def _name(self, name: str) -> str:
        """As the FP32 graph calls it."""
        return name.removesuffix(self.suffix) if self.suffix else name
