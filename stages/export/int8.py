"""INT8 after training: both graphs from one calibration, and quantisation.json, which says what was done and why."""

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segpipe.artifacts import INT8_CPU_GRAPH, INT8_GRAPH
from segpipe.errors import ConfigError
from segpipe.rundir.storage import sha256_of_bytes
from stages.config.compress import CompressConfig
from stages.config.root import Config
from stages.console_bars import counted
from stages.export.calibration import Frames
from stages.export.int8_trial import Bench, Trial
from stages.graphs.calibrating import Span, spans, trained_spans
from stages.graphs.halving import half_suffix
from stages.graphs.int8_layers import Layer, is_quantised, layers_of
from stages.graphs.int8_ranking import ENOUGH_DB, answers, noise_db, ranked
from stages.graphs.islands import named_nodes
from stages.graphs.quantising import Written, at_opset, quantised
from stages.graphs.quantising_cpu import LEAST_OPSET, quantised_for_cpu
from stages.graphs.reading import check, to_bytes
from stages.graphs.rounding import rounded
from stages.graphs.types import element_types
from stages.results.quantisation import FILE_NAME

_AUTO = "auto"
_PROBED = 2  # calibration frames that layers are ranked on
_DEPTHWISE = "depthwise: an engine in INT8 would be larger and no faster"

_log = logging.getLogger(__name__)

Choice = Mapping[str, str]
"""Nodes that stay in floats, and why."""


@dataclass(frozen=True)
class Int8:
    """Files by name, and figures for the record."""

    files: dict[str, bytes]
    figures: dict[str, Any]


@dataclass(frozen=True)
class Graphs:
    """The network as export has it: FP32, FP16, and what it must keep to."""

    full: onnx.ModelProto
    half: onnx.ModelProto
    input_name: str


@dataclass(frozen=True)
class _Made:
    """One graph, the layers that stay in floats with the reason of each, what was tried, and the scores' noise."""

    model: onnx.ModelProto
    kept: Choice
    trials: tuple[Trial, ...]
    noise_db: float

    def as_dict(self) -> dict[str, Any]:
        """For quantisation.json."""
        tried = [trial.as_dict() for trial in self.trials]
        return {"kept": len(self.kept), "noise_db": self.noise_db, "trials": tried}


def int8_files(
    graphs: Graphs, config: Config, frames: Frames, before: bytes | None, trained: bytes | None = None
) -> Int8:
    """`before`: the run's last quantisation.json; where it was made from the same, its ranking holds. `trained`: the
    ranges that training rounded with, which then are those of its layers."""
    settings = config.compress
    if is_quantised(graphs.full):
        raise ConfigError("this network came with INT8 inside", hint='set compress.int8 = "off": it is deployed so')
    if not layers_of(graphs.full):
        raise ConfigError("no layer of this network multiplies by stored weights", hint='set compress.int8 = "off"')
    layers, probe = layers_of(graphs.full), list(islice(frames.tensors(), _PROBED))
    seen = counted("calibrating", frames.tensors(), len(frames.calibrated))
    ranges = spans(graphs.full, seen, graphs.input_name, settings.calibration)
    ranges |= trained_spans(layers, trained) if trained else {}
    fixed, basis = _fixed(graphs.full, layers, settings, ranges), _basis(graphs, ranges, probe)
    asked = [layer for layer in layers if layer.name not in fixed] if _AUTO in settings.keep else []
    noise = _ranking(graphs.full, asked, ranges, probe, _known(before, basis))
    bench = Bench(to_bytes(graphs.full), frames.contract, config.validate_, frames.samples)
    search = _Search(graphs, layers, ranges, fixed, noise, bench, probe)
    depthwise = {layer.name: _DEPTHWISE for layer in layers if layer.depthwise}
    made = {
        INT8_CPU_GRAPH: search.best(search.for_cpu, {}),
        INT8_GRAPH: search.best(search.for_engines, depthwise),
    }
    files = {name: to_bytes(graph.model) for name, graph in made.items()}
    files[FILE_NAME] = _report(settings, frames, basis, search, made)
    cpu = made[INT8_CPU_GRAPH]
    figures = {
        "int8_layers": len(layers),
        "int8_kept": len(cpu.kept),
        "int8_noise_db": cpu.noise_db,
        "int8_size_ratio": round(len(files[INT8_CPU_GRAPH]) / len(to_bytes(graphs.full)), 3),
    }
    return Int8(files, figures)


@dataclass
class _Search:
    """The fewest layers in floats with which a graph holds."""

    graphs: Graphs
    layers: list[Layer]
    ranges: Mapping[str, Span]
    fixed: Choice
    noise: Mapping[str, float]
    bench: Bench
    probe: Sequence[NDArray[Any]]
    quiet: dict[str, int] = field(default_factory=dict)
    """By layer of the last graph for engines: channels whose weights are too small for their scales."""

    def best(self, write: Callable[[Collection[str]], onnx.ModelProto], fixed: Choice) -> _Made:
        """From the loudest layer on, twice as many each time, until the limits hold or all are in floats."""
        kept: dict[str, str] = {**self.fixed, **fixed}
        kept |= {name: f"{db} dB alone" for name, db in self.noise.items() if db < ENOUGH_DB and name not in kept}
        rest = sorted((name for name in self.noise if name not in kept), key=lambda name: self.noise[name])
        trials, more = [], 1
        while True:
            model = write(kept)
            check(model, "the INT8 graph")
            trials.append(self.bench.judge(to_bytes(_runnable(model)), len(kept)))
            _log.info("export: INT8 with %d of %d layers in floats: %s", len(kept), len(self.layers), _said(trials[-1]))
            if not rest and trials[-1].failed:
                _log.warning("export: INT8 does not hold for this network: %s", ", ".join(trials[-1].failed))
            if not trials[-1].failed or not rest:
                found = answers(_runnable(model), self.probe)
                return _Made(model, kept, tuple(trials), noise_db(answers(self.graphs.full, self.probe), found))
            kept |= {name: f"the limits need it ({self.noise[name]} dB alone)" for name in rest[:more]}
            rest, more = rest[more:], 2 * more

    def for_cpu(self, kept: Collection[str]) -> onnx.ModelProto:
        """By ONNX Runtime's quantiser."""
        return quantised_for_cpu(at_opset(self.graphs.full, LEAST_OPSET), self.ranges, kept)

    def for_engines(self, kept: Collection[str]) -> onnx.ModelProto:
        """On the FP16 graph, without its FP32 islands."""
        suffix = half_suffix(element_types(self.graphs.full))
        half = {node.name for node in self.graphs.half.graph.node if node.output[0].endswith(suffix)}
        chosen = [layer.name for layer in self.layers if layer.name not in kept and layer.name in half]
        written: Written = quantised(self.graphs.half, self.ranges, chosen, suffix)
        self.quiet = written.quiet
        return written.model


def _runnable(model: onnx.ModelProto) -> onnx.ModelProto:
    """As ONNX Runtime's CPU provider computes it truthfully: with every result rounded where it is FP16."""
    halves = onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in model.graph.initializer}
    return rounded(model) if halves else model


def _fixed(
    model: onnx.ModelProto, layers: list[Layer], settings: CompressConfig, ranges: Mapping[str, Span]
) -> dict[str, str]:
    """What stays in floats whatever it would cost: the layers that are named, and those with nothing to scale by."""
    found = {
        layer.name: "its input never varies on calibration frames"
        for layer in layers
        if layer.source not in ranges or ranges[layer.source].is_flat
    }
    for name in settings.keep:
        if name != _AUTO:
            nodes = set(named_nodes(model, name, "compress.keep"))
            found |= {layer.name: f"named in compress.keep: {name}" for layer in layers if layer.name in nodes}
    return found


def _ranking(
    full: onnx.ModelProto,
    asked: list[Layer],
    ranges: Mapping[str, Span],
    probe: list[NDArray[Any]],
    known: Mapping[str, float],
) -> dict[str, float]:
    """Decibels of each layer that is asked about, the known ones without work."""
    new = [layer for layer in asked if layer.name not in known]
    found = {**known, **ranked(full, counted("ranking layers", new, len(new)), ranges, probe)}
    return {layer.name: found[layer.name] for layer in asked}


def _basis(graphs: Graphs, ranges: Mapping[str, Span], probe: list[NDArray[Any]]) -> str:
    """What a ranking rests on."""
    parts = [to_bytes(graphs.full), *(np.ascontiguousarray(tensor).tobytes() for tensor in probe)]
    parts.append(json.dumps({name: [span.low, span.high] for name, span in ranges.items()}).encode())
    return sha256_of_bytes("".join(map(sha256_of_bytes, parts)).encode())


def _known(before: bytes | None, basis: str) -> dict[str, float]:
    """The ranking of an earlier export; nothing where it rests on something else."""
    report = json.loads(before) if before else {}
    if report.get("basis") != basis:
        return {}
    _log.info("export: the ranking of layers is the last export's, which was made from the same")
    return {layer["node"]: layer["noise_db"] for layer in report["layers"] if layer["noise_db"] is not None}


def _report(settings: CompressConfig, frames: Frames, basis: str, search: _Search, made: Mapping[str, _Made]) -> bytes:
    cpu, engine = made[INT8_CPU_GRAPH].kept, made[INT8_GRAPH].kept
    report = {
        "schema_version": 1,
        "way": settings.int8,
        "calibration": settings.calibration,
        "frames": {"split": frames.name, "calibrated": len(frames.calibrated), "tried": len(frames.tried)},
        "basis": basis,
        "graphs": {name: graph.as_dict() for name, graph in made.items()},
        "layers": [_layer(layer, search, cpu, engine) for layer in search.layers],
    }
    return json.dumps(report, indent=2, ensure_ascii=False).encode()


def _layer(layer: Layer, search: _Search, cpu: Choice, engine: Choice) -> dict[str, Any]:
    span = search.ranges.get(layer.source)
    return {
        "node": layer.name,
        "module": layer.module,
        "operator": layer.node.op_type,
        "input_range": None if span is None else [round(span.low, 6), round(span.high, 6)],
        "noise_db": search.noise.get(layer.name),
        "kept_for_cpus": cpu.get(layer.name, ""),
        "kept_for_engines": engine.get(layer.name, ""),
        "quiet_channels": search.quiet.get(layer.name, 0),
    }


def _said(trial: Trial) -> str:
    drop = "no labels" if trial.miou_drop is None else f"mIoU drop up to {trial.miou_drop:.4f}"
    return f"agreement {trial.agreement:.4f}, {drop}{', fails ' + ', '.join(trial.failed) if trial.failed else ''}"
