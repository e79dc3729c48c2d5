"""Beside latency, for our best backend: throughput, memory, energy, and the least a frame can cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend
from segpipe.runtime.request import Outputs
from segpipe.runtime.streaming import ordered
from stages.benchmark import floor, memory, nvml
from stages.benchmark.contestants import OurBackends, Scene
from stages.config.root import BenchmarkConfig
from stages.measuring.rounds import FAILURES, first_line
from stages.results.benchmark import Floor, Memory, Throughput

_MASK = Outputs()


@dataclass(frozen=True)
class Subject:
    """Of what the extras are: a contestant of ours, by its name in the table."""

    run: RunDirectory
    contestant: str
    scene: Scene
    settings: BenchmarkConfig
    ours: OurBackends

    @property
    def backend(self) -> Backend:
        """Open already."""
        return self.ours.backend(self.name)

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.contestant.removeprefix("segpipe ")


@dataclass(frozen=True)
class Extras:
    """What could be measured; the reasons for the rest."""

    batches: tuple[Throughput, ...] = ()
    callers: tuple[Throughput, ...] = ()
    memory: Memory | None = None
    energy_joules: float | None = None
    floor: Floor | None = None
    missing: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def figures(self) -> dict[str, Any]:
        """As the report's fields."""
        names = ("batches", "callers", "memory", "energy_joules", "floor")
        return {name: getattr(self, name) for name in names}


def measure_extras(subject: Subject, gpu: nvml.Watch, found: Extras) -> Extras:
    """One after the other; Ctrl-C keeps what is done."""
    parts: dict[str, Callable[[], Any]] = {
        "batches": lambda: tuple(_batch(subject, count) for count in subject.settings.batches),
        "callers": lambda: tuple(_callers(subject, count) for count in subject.settings.callers),
        "memory": lambda: memory.peak(subject.run.path, subject.name, subject.scene, gpu),
        "energy_joules": lambda: _energy(subject, gpu),
        "floor": lambda: floor.measure_floor(subject.run, subject.scene),
    }
    try:
        for name, part in parts.items():
            try:
                found = replace(found, **{name: part()})
            except FAILURES as error:
                found = replace(found, missing={**found.missing, name: first_line(error)})
    except KeyboardInterrupt:
        return replace(found, interrupted=True)
    return found


def _batch(subject: Subject, size: int) -> Throughput:
    """Frames a second, this many frames a call."""
    backend, scene = subject.backend, subject.scene
    backend.infer([scene.frame(number) for number in range(size)], _MASK)
    done = _calls_until(
        lambda number: backend.infer([scene.frame(number * size + k) for k in range(size)], _MASK),
        subject.settings.throughput_seconds,
    )
    return Throughput(count=size, frames_per_second=round(done * size, 2))


def _callers(subject: Subject, threads: int) -> Throughput:
    """Frames a second, this many threads calling with one frame each."""
    backend, scene = subject.backend, subject.scene

    def call(number: int) -> object:
        return backend.infer([scene.frame(number)], _MASK)

    def rate(_: int) -> float:
        return _calls_until(call, subject.settings.throughput_seconds)

    list(ordered(call, range(threads), threads))
    return Throughput(count=threads, frames_per_second=round(sum(ordered(rate, range(threads), threads)), 2))


def _energy(subject: Subject, gpu: nvml.Watch) -> float | None:
    """Joules of the GPU a frame, from its own counter."""
    start = gpu.energy_joules()
    if start is None:
        return None
    frames, end = 0, time.monotonic() + subject.settings.throughput_seconds
    while time.monotonic() < end:
        subject.backend.infer([subject.scene.frame(frames)], _MASK)
        frames += 1
    stop = gpu.energy_joules()
    return None if stop is None else round((stop - start) / frames, 6)


def _calls_until(call: Callable[[int], object], seconds: float) -> float:
    """Calls a second."""
    start = time.perf_counter()
    calls = 0
    while (passed := time.perf_counter() - start) < seconds or calls == 0:
        call(calls)
        calls += 1
    return calls / passed if passed > 0 else 0.0
