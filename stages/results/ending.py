"""How a run ends for a person: its figures in a few lines, stage by stage, and the next command."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ValidationError

from segpipe.errors import word
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from stages.measuring.rounds import in_words

Figures = dict[str, Any]


class _Engine(BaseModel):
    fp16_share: float
    compute_layers: int
    engine_bytes: int

    def plain(self) -> str:
        """Its precision and size."""
        share = f"{self.fp16_share:.0%} of {self.compute_layers} compute layers in FP16"
        return f"{share}, {self.engine_bytes / 1e6:.1f} MB"


class _Judged(BaseModel):
    agreement: dict[str, float | None]
    status: str = "passed"
    judged: str = ""


class _Measured(BaseModel):
    p50_ms: float
    faster_than_eager: tuple[float, float | None, float | None] | None = None
    doubts: tuple[str, ...] = ()


def figure_lines(rundir: RunDirectory, last: str = "") -> list[str]:
    """A line for each stage that ran, up to `last` where it is named: accuracy, engines, agreement, speed."""
    lines: list[str] = []
    for stage, tell in _LINES.items():
        if stage in rundir.manifest.stages:
            with suppress(ValidationError):  # of another version, or edited: nothing that is known here
                lines += tell(rundir.record(stage).figures)
        if stage == last:
            break
    return lines


def next_line(rundir: RunDirectory, last: str) -> str:
    """What to do now."""
    if last not in {"validate", "benchmark"}:
        return f"next        segpipe run {word(rundir.path)}"
    if not rundir.record("validate").figures.get("warnings"):
        return f"next        segpipe predict {word(rundir.path)} IMAGES -o OUT"
    check = f"segpipe data check {word(rundir.path)}"
    if "train" not in rundir.manifest.stages:
        return f"next        {check}"
    again = f"raise [train] epochs in {word(rundir.path / TOML_NAME)} and segpipe run {word(rundir.path)}"
    return f"next        {check}; then {again}"


def _accuracy(figures: Figures) -> Iterator[str]:
    if isinstance(figures.get("test_miou"), float):
        yield f"accuracy    mIoU {figures['test_miou']:.4f} on held-out frames"


def _engines(figures: Figures) -> Iterator[str]:
    engines = [f"{name}: {_Engine.model_validate(entry).plain()}" for name, entry in figures.items()]
    yield f"engine      {'; '.join(engines) or 'none built'}"


def _agreement(figures: Figures) -> Iterator[str]:
    judged = _Judged.model_validate(figures)
    shares = [f"{name} {share:.4%}" for name, share in judged.agreement.items() if share is not None]
    gate = f"the release gate {judged.status}" + (f" ({judged.judged})" if judged.judged else "")
    yield f"agreement   {', '.join(shares) or 'none'} of pixels equal to the reference: {gate}"
    yield from (f"warning     {line}" for line in figures.get("warnings", ()))


def _latency(figures: Figures) -> Iterator[str]:
    """Our best, PyTorch eager beside it where that could be measured, and what makes them doubtful."""
    measured = _Measured.model_validate(figures)
    line = f"latency     {measured.p50_ms:.2f} ms a frame end to end"
    if measured.faster_than_eager:
        ratio, low, high = measured.faster_than_eager
        line += f", PyTorch eager takes {ratio:.2f} times as long ({in_words(low, high)})"
    yield "; ".join((line, *measured.doubts))


_LINES: dict[str, Callable[[Figures], Iterator[str]]] = {
    "train": _accuracy,
    "export": lambda _: iter(()),
    "build": _engines,
    "validate": _agreement,
    "benchmark": _latency,
}
