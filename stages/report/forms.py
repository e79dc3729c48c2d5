"""Each deployed form of a network beside the others: how accurate, how large and how fast it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from segpipe.artifacts import ON_CPU, Artifact, Precision, held_by
from segpipe.rundir.manifest import Manifest
from stages.results.benchmark import Report

_ON_CPU_HOP = "onnx"
"""What the gate calls the FP32 graph on ONNX Runtime. Graphs of engines have their precision's name."""


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Measured:
    """What the gate found of a hop."""

    status: str
    miou: float | None
    drop: Interval | None
    agreement: float | None


@dataclass(frozen=True)
class Form:
    """One file on one backend."""

    name: str
    precision: Precision
    size_bytes: int
    verdict: str
    miou: float | None
    miou_drop: Interval | None
    """Against the reference, on the gate's images."""
    agreement: float | None
    stands_in: bool
    """Whether these are figures of the graph that it is built from, rounded on a CPU."""
    latency_ms: Interval | None
    """Of a frame, end to end."""
    network_ms: Interval | None
    """Of the network alone."""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def forms_of(manifest: Manifest, hops: Mapping[str, Measured], benchmark: Report | None) -> tuple[Form, ...]:
    """Everything that the run holds, the finest first."""
    finest = get_args(Precision)
    rows = sorted(held_by(manifest), key=lambda row: finest.index(row.precision))
    return tuple(_form(row, manifest, hops, benchmark) for row in rows)


def _form(row: Artifact, manifest: Manifest, hops: Mapping[str, Measured], benchmark: Report | None) -> Form:
    own = hops.get(_ON_CPU_HOP if row.name == ON_CPU.name else row.name)
    found = own or (hops.get(row.precision) if row.needs_gpu else None)
    return Form(
        name=row.name,
        precision=row.precision,
        size_bytes=manifest.stages[row.stage].outputs[row.file].size_bytes,
        verdict=own.status if own else "not judged",
        miou=found.miou if found else None,
        miou_drop=found.drop if found else None,
        agreement=found.agreement if found else None,
        stands_in=found is not None and own is None,
        latency_ms=_latency(benchmark, f"segpipe {row.name}"),
        network_ms=_latency(benchmark, f"{row.name}, network alone"),
    )


def _latency(benchmark: Report | None, contestant: str) -> Interval | None:
    for entry in benchmark.contestants if benchmark else ():
        if entry.name == contestant and entry.latency:
            return Interval(entry.latency.p50_ms, entry.latency.p50_low_ms, entry.latency.p50_high_ms)
    return None
