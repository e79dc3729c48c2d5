"""quantisation.json as one self-contained page: each layer's range, what it costs alone, and what became of it."""

from collections.abc import Iterator
from dataclasses import dataclass

from segpipe.artifacts import FP8_GRAPH, INT8_CPU_GRAPH, INT8_GRAPH
from stages.graphs.int8_ranking import ENOUGH_DB
from stages.pages.rendering import Link, render
from stages.results.quantisation import Quantisation, QuantisedGraph, QuantisedLayer

_LINKS = (
    Link("Report", "../../report.html", "once segpipe report has written it"),
    Link("Release gate", "../../latest/validate/gate.html", "once segpipe validate has judged it"),
    Link("Quantisation"),
)
"""The page lies in RUN/export/KEY and RUN/latest/export."""
_FOR = {INT8_CPU_GRAPH: "CPUs", INT8_GRAPH: "engines in INT8", FP8_GRAPH: "engines in FP8"}


@dataclass(frozen=True)
class GraphRow:
    """One file."""

    name: str
    used_for: str
    graph: QuantisedGraph


@dataclass(frozen=True)
class LayerRow:
    """One layer; costs are shares of what is put up with, 1 at the threshold."""

    layer: QuantisedLayer
    costs: tuple[float | None, ...]
    fates: tuple[str, ...]
    """For each graph: why it stays in floats there; empty where it does not."""
    floats_for: tuple[str, ...]
    below: float
    width: float
    """Where its range begins and how long it is, as shares of the widest on either side of 0."""


def page(report: Quantisation) -> str:
    """The whole page."""
    return render(
        "quantisation.html.j2",
        _LINKS,
        report=report,
        graphs=[GraphRow(name, _FOR[name], report.graphs[name]) for name in _FOR if name in report.graphs],
        rows=[*_rows(report)],
        kinds=_kinds(report),
        enough_db=ENOUGH_DB,
    )


def _kinds(report: Quantisation) -> tuple[str, ...]:
    """The formats that something was made in."""
    made = {"INT8": report.graphs.keys() - {FP8_GRAPH}, "FP8": report.graphs.keys() & {FP8_GRAPH}}
    return tuple(kind for kind, graphs in made.items() if graphs)


def _rows(report: Quantisation) -> Iterator[LayerRow]:
    widest = max((abs(end) for layer in report.layers for end in layer.input_range or ()), default=0.0) or 1.0
    for layer in report.layers:
        low, high = layer.input_range or (0.0, 0.0)
        costs = {"INT8": layer.noise_db, "FP8": layer.fp8_noise_db}
        fates = {
            INT8_CPU_GRAPH: layer.kept_for_cpus,
            INT8_GRAPH: layer.kept_for_engines,
            FP8_GRAPH: layer.kept_for_fp8,
        }
        held = [name for name in _FOR if name in report.graphs]
        yield LayerRow(
            layer,
            tuple(_cost(costs[kind]) for kind in _kinds(report)),
            tuple(fates[name] for name in held),
            tuple(_FOR[name] for name in held if fates[name]),
            (low + widest) / (2 * widest),
            (high - low) / (2 * widest),
        )


def _cost(noise_db: float | None) -> float | None:
    """The noise as a share of the loudest that a layer may make alone; louder is 1."""
    return None if noise_db is None else min(1.0, 10 ** ((ENOUGH_DB - noise_db) / 20))
