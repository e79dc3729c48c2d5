"""A benchmark's report as the rows and lines that the terminal shows."""

from collections.abc import Iterator, Sequence

from stages.measuring.rounds import in_words
from stages.results.benchmark import Entry, Report

COLUMNS = ("contestant", "p50 ms", "95 % interval", "p90", "p99", "max", "samples", "same masks", "slower than ours")

_STEPS = ("upload", "pre", "network", "post", "download", "rest")  # in the order in which a frame meets them


def rows(report: Report) -> list[list[str]]:
    """A line for each contestant that was measured, ours first."""
    return [_row(report, entry) for entry in report.contestants if entry.latency]


def remarks(report: Report) -> list[str]:
    """What a reader must know before believing the figures, loudest first."""
    lines = [f"NOT VALIDATED: {name}: the release gate has not passed it" for name in report.unvalidated]
    lines += ["PARTIAL: cut short by Ctrl-C"] if report.partial else []
    lines += [f"warning: {warning}" for warning in report.conditions.warnings]
    lines += [
        f"{entry.name} answers differently: {entry.agreement:.2%} of pixels equal to {report.reference}"
        for entry in report.contestants
        if entry.same_answer is False
    ]
    lines += _absent(report.absent())
    lines += [
        f"cut short: {entry.name}: {entry.reason}" for entry in report.contestants if entry.latency and entry.reason
    ]
    return [*lines, *_beside(report)]


def absent_lines(report: Report) -> list[str]:
    """Every contestant that was not measured, with its whole reason."""
    return [f"not measured: {entry.name}: {entry.reason}" for entry in report.absent()]


def _absent(entries: Sequence[Entry]) -> Iterator[str]:
    """One line a reason, since a machine without a GPU has one reason for many."""
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        reasons.setdefault(entry.reason.partition(". ")[0], []).append(entry.name)
    for reason, names in reasons.items():
        many = f"{len(names)} contestants (`segpipe --verbose benchmark RUN` names them)"
        yield f"not measured: {names[0] if len(names) == 1 else many}: {reason}"


def _row(report: Report, entry: Entry) -> list[str]:
    latency = entry.latency
    assert latency is not None
    ratio = next((r for r in report.ratios if r.slow == entry.name and not entry.ours), None)
    return [
        entry.name,
        f"{latency.p50_ms:.2f}",
        in_words(latency.p50_low_ms, latency.p50_high_ms),
        _number(latency.p90_ms),
        _number(latency.p99_ms),
        f"{latency.max_ms:.2f}",
        str(latency.samples),
        "-" if entry.agreement is None else f"{entry.agreement:.3%}",
        "" if ratio is None else f"{ratio.ratio:.2f}x ({in_words(ratio.low, ratio.high)})",
    ]


def _beside(report: Report) -> Iterator[str]:
    if budget := report.budget:
        steps = {name: getattr(budget, f"{name}_ms") for name in _STEPS}
        told = ", ".join(f"{name} {value:.2f}" for name, value in steps.items() if value is not None)
        yield f"budget: {told} of {budget.end_to_end_ms:.2f} ms"
    elif "budget" in report.missing:
        yield f"no budget: {report.missing['budget']}"
    if report.batches:
        yield "frames a second by batch: " + ", ".join(f"{t.count}: {t.frames_per_second:.0f}" for t in report.batches)
    if report.callers:
        yield "frames a second by threads: " + ", ".join(
            f"{t.count}: {t.frames_per_second:.0f}" for t in report.callers
        )
    if memory := report.memory:
        yield f"peak memory of a process that only segments: {memory.host_peak_bytes / 1e6:.0f} MB"
    if floor := report.floor:
        yield f"floor of this network on this machine in {floor.precision}: {floor.floor_ms:.2f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
