"""INT8 and FP8 after training: their graphs from one calibration, and quantisation.json, which says what was done and
why."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segpipe.artifacts import FP8_GRAPH, INT8_CPU_GRAPH, INT8_GRAPH
from segpipe.errors import ConfigError, ExportError
from segpipe.rundir.storage import sha256_of_bytes
from stages.config.compress import CompressConfig
from stages.config.root import Config
from stages.console_bars import counted
from stages.export.calibration import Frames
from stages.export.int8_page import page
from stages.export.int8_search import Choice, Graphs, Made, Search, not_for_engines
from stages.export.int8_trial import Bench
from stages.graphs.calibrating import Span, spans, trained_spans
from stages.graphs.int8_layers import Layer, is_quantised, layers_of
from stages.graphs.int8_ranking import ranked
from stages.graphs.islands import named_nodes
from stages.graphs.quantising import FP8, INT8, EightBits
from stages.graphs.reading import to_bytes
from stages.results.quantisation import FILE_NAME, PAGE_NAME, CalibrationFrames, Quantisation, QuantisedLayer, form

_AUTO = "auto"
_PROBED = 2  # calibration frames that layers are ranked on
_FORM = form(ExportError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Int8:
    """Files by name, and figures for the record."""

    files: dict[str, bytes]
    figures: dict[str, Any]


def int8_files(
    graphs: Graphs, config: Config, frames: Frames, before: bytes | None, trained: bytes | None = None
) -> Int8:
    """`before`: the run's last quantisation.json; where it was made from the same, its ranking holds. `trained`: the
    ranges that training rounded with, which then are those of its layers."""
    settings = config.compress
    layers = _layers(graphs.full)
    probe = list(islice(frames.tensors(), _PROBED))
    seen = counted("calibrating", frames.tensors(), len(frames.calibrated))
    ranges = spans(graphs.full, seen, graphs.input_name, settings.calibration)
    ranges |= trained_spans(layers, trained) if trained else {}
    bench = Bench(to_bytes(graphs.full), frames.contract, config.validate_, frames.samples)
    search = Search(graphs, layers, ranges, bench, probe)
    basis = _basis(search)
    fixed = _fixed(graphs.full, layers, settings, ranges)
    asked = [layer for layer in layers if layer.name not in fixed] if _AUTO in settings.keep else []
    work = _Work(search, fixed, asked, _last(before, basis))
    if settings.int8 != "off":
        work.make_int8()
    if settings.fp8:
        work.make_fp8()
    report = Quantisation(
        way=settings.int8,
        calibration=settings.calibration,
        frames=CalibrationFrames(split=frames.name, calibrated=len(frames.calibrated), tried=len(frames.tried)),
        basis=basis,
        graphs={name: graph.report() for name, graph in work.made.items()},
        layers=tuple(map(work.told, layers)),
    )
    files = {name: to_bytes(graph.model) for name, graph in work.made.items()}
    files[FILE_NAME] = report.model_dump_json(indent=2).encode()
    files[PAGE_NAME] = page(report).encode()
    return Int8(files, {"quantisable_layers": len(layers), **_figures(work.made, files, graphs.full)})


@dataclass
class _Work:
    """The graphs that are made, and each layer's decibels in each format."""

    search: Search
    fixed: Choice
    asked: Sequence[Layer]
    last: Quantisation | None
    """The last export's report, where it rests on the same."""
    made: dict[str, Made] = field(default_factory=dict)
    noise: dict[str, dict[str, float]] = field(default_factory=dict)

    def make_int8(self) -> None:
        """For CPUs, and for engines."""
        known = {layer.node: layer.noise_db for layer in self.last.layers} if self.last else {}
        noise = self._ranked(INT8, known)
        search = self.search
        self.made[INT8_CPU_GRAPH] = search.best("INT8 for CPUs", search.for_cpu, self.fixed, noise)
        self.made[INT8_GRAPH] = search.best("INT8", search.for_engines(INT8), self._not_for_engines(INT8), noise)

    def make_fp8(self) -> None:
        """For engines alone."""
        known = {layer.node: layer.fp8_noise_db for layer in self.last.layers} if self.last else {}
        noise = self._ranked(FP8, known)
        self.made[FP8_GRAPH] = self.search.best("FP8", self.search.for_engines(FP8), self._not_for_engines(FP8), noise)

    def told(self, layer: Layer) -> QuantisedLayer:
        """What became of one layer."""
        span = self.search.ranges.get(layer.source)
        return QuantisedLayer(
            node=layer.name,
            module=layer.module,
            operator=layer.node.op_type,
            input_range=None if span is None else (_short(span.low), _short(span.high)),
            noise_db=self.noise.get(INT8.name, {}).get(layer.name),
            kept_for_cpus=self._why(INT8_CPU_GRAPH, layer),
            kept_for_engines=self._why(INT8_GRAPH, layer),
            fp8_noise_db=self.noise.get(FP8.name, {}).get(layer.name),
            kept_for_fp8=self._why(FP8_GRAPH, layer),
            quiet_channels=max((graph.quiet.get(layer.name, 0) for graph in self.made.values()), default=0),
        )

    def _why(self, graph: str, layer: Layer) -> str:
        return self.made[graph].kept.get(layer.name, "") if graph in self.made else ""

    def _not_for_engines(self, bits: EightBits) -> Choice:
        return {**not_for_engines(self.search.layers, self.search.ranges, bits), **self.fixed}

    def _ranked(self, bits: EightBits, known: Mapping[str, float | None]) -> dict[str, float]:
        """Decibels of each layer that is asked about, the known ones without work."""
        held = {name: db for name, db in known.items() if db is not None}
        new = [layer for layer in self.asked if layer.name not in held]
        shown = counted(f"ranking layers in {bits.name}", new, len(new))
        search = self.search
        found = {**held, **ranked(search.graphs.full, shown, partial(search.alone, bits=bits), search.probe)}
        self.noise[bits.name] = {layer.name: found[layer.name] for layer in self.asked}
        return self.noise[bits.name]


def _layers(full: onnx.ModelProto) -> list[Layer]:
    hint = 'set compress.int8 = "off" and compress.fp8 = false'
    if is_quantised(full):
        raise ConfigError("this network came with INT8 inside", hint=f"{hint}: it is deployed so")
    if not (found := layers_of(full)):
        raise ConfigError("no layer of this network multiplies by stored weights", hint=hint)
    return found


def _fixed(
    model: onnx.ModelProto, layers: Sequence[Layer], settings: CompressConfig, ranges: Mapping[str, Span]
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


def _basis(search: Search) -> str:
    """What a ranking rests on."""
    tensors: Sequence[NDArray[Any]] = search.probe
    parts = [to_bytes(search.graphs.full), *(np.ascontiguousarray(tensor).tobytes() for tensor in tensors)]
    parts.append(json.dumps({name: [span.low, span.high] for name, span in search.ranges.items()}).encode())
    return sha256_of_bytes("".join(map(sha256_of_bytes, parts)).encode())


def _last(before: bytes | None, basis: str) -> Quantisation | None:
    """An earlier export's report; nothing where it rests on something else, or was written in another form."""
    if before is None:
        return None
    try:
        report = _FORM.read(before, "the last export's quantisation.json", "")
    except ExportError as error:
        _log.debug("export: layers are ranked anew: %s", error)
        return None
    if report.basis != basis:
        return None
    _log.info("export: the ranking of layers is the last export's, which was made from the same")
    return report


def _figures(made: Mapping[str, Made], files: Mapping[str, bytes], full: onnx.ModelProto) -> dict[str, Any]:
    """For the record, by kind: the INT8 that CPUs run, and FP8."""
    whole, found = len(to_bytes(full)), dict[str, Any]()
    for kind, name in (("int8", INT8_CPU_GRAPH), ("fp8", FP8_GRAPH)):
        if name in made:
            found |= {
                f"{kind}_kept": len(made[name].kept),
                f"{kind}_noise_db": made[name].noise_db,
                f"{kind}_size_ratio": round(len(files[name]) / whole, 3),
            }
    return found


def _short(value: float) -> float:
    """Six digits, however small it is."""
    return float(f"{value:.6g}")
