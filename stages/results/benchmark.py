"""report.json of the benchmark: its published schema, which `python -m stages.benchmark` writes anew."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import InputError
from stages.measuring.rounds import ENOUGH, Latency

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "benchmark-report.schema.json"
SCHEMA = 1

Kind = Literal["end to end", "network alone"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Machine(_Part):
    """What the figures belong to."""

    processor: str
    cores: int
    python: str
    gpu: str = ""


class GpuState(_Part):
    """What NVML says of the GPU at one moment."""

    when: Literal["before", "during", "after"]
    graphics_clock_mhz: int
    memory_clock_mhz: int
    temperature_c: int
    power_w: float
    throttle_reasons: int
    """NVML's bit mask; 0 is none, 1 is idle."""


class Conditions(_Part):
    """What went on around the measurement."""

    load_before: float
    load_after: float
    others_share: float
    """Share of all cores that other processes had meanwhile."""
    gpu: tuple[GpuState, ...] = ()
    gpu_unread: str = ""
    """Why NVML said nothing."""
    warnings: tuple[str, ...] = ()


class Entry(_Part):
    """One contestant: measured, or not with the reason."""

    name: str
    kind: Kind
    ours: bool
    agreement: float | None = None
    """Share of pixels equal to the reference's, over all frames."""
    same_answer: bool | None = None
    warm_up_calls: int = 0
    settled: bool | None = None
    validated: bool | None = None
    """For ours: whether the release gate passed this artifact on this backend and device."""
    latency: Latency | None = None
    reason: str = ""


class Ratio(_Part):
    """median(slow) / median(fast), with a 95 % bootstrap interval over the paired rounds; None where they are few."""

    slow: str
    fast: str
    ratio: float
    low: float | None
    high: float | None


class Budget(_Part):
    """Where a frame's time goes: medians of the steps, which with `rest` add up to `end_to_end`."""

    pre_ms: float
    upload_ms: float | None
    network_ms: float
    post_ms: float
    download_ms: float | None
    rest_ms: float
    end_to_end_ms: float


class Throughput(_Part):
    """Frames a second with this many frames a call, or this many threads calling."""

    count: int
    frames_per_second: float


class Memory(_Part):
    """Of a process of its own that does nothing but segment these frames."""

    host_before_bytes: int
    """After importing segpipe, before opening the run."""
    host_peak_bytes: int
    device_peak_bytes: int | None


class Floor(_Part):
    """What this frame costs at least on this machine: the larger of bytes / bandwidth and operations / rate."""

    bytes: int
    operations: int
    bandwidth_bytes_per_second: float
    operations_per_second: float
    precision: str
    floor_ms: float


class Report(_Part):
    """The whole file."""

    schema_version: int = SCHEMA
    partial: bool
    """Cut short by Ctrl-C: fewer samples than asked for."""
    reference: str
    """The contestant whose masks the others are compared with."""
    frame: tuple[int, ...]
    frames: int
    network_input: tuple[int, ...]
    threads: int
    machine: Machine
    conditions: Conditions
    contestants: tuple[Entry, ...]
    ratios: tuple[Ratio, ...]
    budget: Budget | None = None
    batches: tuple[Throughput, ...] = ()
    callers: tuple[Throughput, ...] = ()
    memory: Memory | None = None
    energy_joules: float | None = None
    """A frame, end to end, all of the GPU."""
    floor: Floor | None = None
    missing: dict[str, str] = {}
    """What could not be measured, and why."""

    def headline(self) -> Entry | None:
        """Ours end to end, on the best backend that ran."""
        own = (entry for entry in self.contestants if entry.ours and entry.kind == "end to end")
        return next((entry for entry in own if entry.latency), None)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the headline is to be taken with care, in a few words each."""
        best = self.headline()
        latency = best.latency if best else None
        return (
            *(("cut short by Ctrl-C",) if self.partial else ()),
            *((f"too few samples: {latency.samples}",) if latency and latency.samples < ENOUGH else ()),
            *self.conditions.warnings,
        )

    def absent(self) -> list[Entry]:
        """Contestants without figures; a network alone is named only where its backend could be opened at all."""
        ran = {entry.name.removeprefix("segpipe ") for entry in self.contestants if entry.ours and entry.latency}
        return [
            entry
            for entry in self.contestants
            if not entry.latency and (entry.kind == "end to end" or entry.name.partition(",")[0] in ran)
        ]

    @property
    def unvalidated(self) -> tuple[str, ...]:
        """Our contestants whose artifact the release gate did not pass."""
        return tuple(entry.name for entry in self.contestants if entry.latency and entry.validated is False)


_FORM = Form("benchmark report", TypeAdapter(Report), InputError, SCHEMA)


def read_report(data: str | bytes, name: str) -> Report:
    """A stored report, or one line that says what is wrong with it."""
    return _FORM.read(data, name, "measure again with `segpipe benchmark`")


def schema_text() -> str:
    """The JSON schema as committed."""
    return json.dumps(Report.model_json_schema(), indent=2) + "\n"
