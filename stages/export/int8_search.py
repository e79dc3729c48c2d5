"""The fewest layers in floats with which a graph of 8 bits holds: the loudest first, until the limits do."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from stages.export.int8_trial import Bench, Trial
from stages.graphs.calibrating import Span
from stages.graphs.halving import half_suffix
from stages.graphs.int8_layers import Layer
from stages.graphs.int8_ranking import ENOUGH_DB, answers, noise_db
from stages.graphs.quantising import FP8, EightBits, Written, at_opset, quantised
from stages.graphs.quantising_cpu import LEAST_OPSET, quantised_for_cpu
from stages.graphs.reading import check, to_bytes
from stages.graphs.rounding import rounded
from stages.graphs.types import element_types
from stages.results.quantisation import QuantisedGraph

_log = logging.getLogger(__name__)

_DEPTHWISE = "depthwise: an engine in 8 bits would be larger and no faster"
_QUIET = "its input is too small for a scale in FP16"

Choice = Mapping[str, str]
"""Nodes that stay in floats, and why."""
Write = Callable[[Collection[str]], Written]
"""A graph with these nodes in floats."""


@dataclass(frozen=True)
class Graphs:
    """The network as export has it: FP32, FP16, and what it must keep to."""

    full: onnx.ModelProto
    half: onnx.ModelProto
    input_name: str


@dataclass(frozen=True)
class Made:
    """One graph, the layers that stay in floats with the reason of each, what was tried, and the scores' noise."""

    model: onnx.ModelProto
    kept: Choice
    trials: tuple[Trial, ...]
    noise_db: float
    quiet: Mapping[str, int]
    """By layer: channels whose weights are too small for their scales."""

    def report(self) -> QuantisedGraph:
        """For quantisation.json."""
        trials = tuple(trial.report() for trial in self.trials)
        return QuantisedGraph(kept=len(self.kept), noise_db=self.noise_db, trials=trials)


@dataclass(frozen=True)
class Search:
    """What all graphs of a network share."""

    graphs: Graphs
    layers: Sequence[Layer]
    ranges: Mapping[str, Span]
    bench: Bench
    probe: Sequence[NDArray[Any]]

    def best(self, name: str, write: Write, fixed: Choice, noise: Mapping[str, float]) -> Made:
        """From the loudest layer on, twice as many each time, until the limits hold or all are in floats.

        `fixed` stay in floats whatever is tried; `noise` has decibels of those that are asked about."""
        kept = dict(fixed)
        kept |= {node: f"{db} dB alone" for node, db in noise.items() if db < ENOUGH_DB and node not in kept}
        rest = sorted((node for node in noise if node not in kept), key=lambda node: noise[node])
        trials, more = [], 1
        while True:
            written = write(kept)
            check(written.model, f"the {name} graph")
            runnable = _runnable(written.model)
            trials.append(self.bench.judge(to_bytes(runnable), len(kept)))
            total, said = len(self.layers), trials[-1].said()
            _log.info("export: %s with %d of %d layers in floats: %s", name, len(kept), total, said)
            if not trials[-1].failed or not rest:
                return self._made(name, written, runnable, kept, trials)
            kept |= {node: f"the limits need it ({noise[node]} dB alone)" for node in rest[:more]}
            rest, more = rest[more:], 2 * more

    def for_cpu(self, kept: Collection[str]) -> Written:
        """By ONNX Runtime's quantiser."""
        return Written(quantised_for_cpu(at_opset(self.graphs.full, LEAST_OPSET), self.ranges, kept), {})

    def alone(self, node: str, bits: EightBits) -> onnx.ModelProto:
        """The network with one layer in 8 bits: INT8 in FP32, FP8 as engines have it, which alone is run truthfully."""
        if bits is FP8:
            others = {layer.name for layer in self.layers} - {node}
            return _runnable(self.for_engines(bits)(others).model)
        return quantised(self.graphs.full, self.ranges, {node}, bits=bits).model

    def for_engines(self, bits: EightBits) -> Write:
        """On the FP16 graph, without its FP32 islands."""
        suffix = half_suffix(element_types(self.graphs.full))
        half = {node.name for node in self.graphs.half.graph.node if node.output[0].endswith(suffix)}

        def write(kept: Collection[str]) -> Written:
            chosen = [layer.name for layer in self.layers if layer.name not in kept and layer.name in half]
            return quantised(self.graphs.half, self.ranges, chosen, suffix, bits)

        return write

    def _made(self, name: str, written: Written, runnable: onnx.ModelProto, kept: Choice, trials: list[Trial]) -> Made:
        if trials[-1].failed:
            _log.warning("export: %s does not hold for this network: %s", name, ", ".join(trials[-1].failed))
        noise = noise_db(answers(self.graphs.full, self.probe), answers(runnable, self.probe))
        return Made(written.model, kept, tuple(trials), noise, written.quiet)


def not_for_engines(layers: Sequence[Layer], ranges: Mapping[str, Span], bits: EightBits) -> dict[str, str]:
    """Layers that engines compute in FP16 whatever they would cost in 8 bits, and why."""
    held = [layer for layer in layers if layer.source in ranges]
    quiet = {layer.name: _QUIET for layer in held if bits.is_too_quiet(ranges[layer.source])}
    return quiet | {layer.name: _DEPTHWISE for layer in layers if layer.depthwise}


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """As ONNX Runtime's CPU provider computes it truthfully: with every result rounded where it is FP16."""
    halves = onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    return rounded(model) if halves else model
