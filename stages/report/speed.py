"""The report's pictures of speed: every sample, where a frame's time goes, peers, throughput."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from stages.measuring.rounds import in_words
from stages.pages.svg import INK, MUTED, SERIES, new_axes, to_svg
from stages.report.reading import Benchmarked, Facts
from stages.results.benchmark import Budget, Report, Throughput

_DOTS = 160  # a contestant; beyond that every so-many-th, and the slowest ones all
_TAIL = 40


def latency(benchmark: Benchmarked) -> str:
    """All samples of each contestant as dots over a logarithmic axis, the median as a line: the tail is seen."""
    entries = [entry for entry in benchmark.report.contestants if entry.latency and entry.name in benchmark.samples]
    if not entries:
        return ""
    figure, axes = new_axes(0.5 * len(entries) + 0.55)
    spread = np.random.default_rng(0)
    for row, entry in enumerate(entries):
        values = _thinned(benchmark.samples[entry.name])
        colour = SERIES[0] if entry.ours else SERIES[2]
        axes.scatter(values, row + 0.16 + spread.uniform(-0.13, 0.13, len(values)), s=7, color=colour, alpha=0.5, lw=0)
        median = entry.latency.p50_ms if entry.latency else 0.0
        axes.plot([median, median], [row - 0.04, row + 0.36], color=INK, lw=1.6)
        axes.text(0.0, row - 0.24, entry.name, transform=axes.get_yaxis_transform(), va="center", size=8.5, color=INK)
        axes.text(1.0, row - 0.24, f"{median:.2f} ms", transform=axes.get_yaxis_transform(), va="center", ha="right",
                  size=8.5, color=INK)  # fmt: skip
    axes.set_xscale("log")
    axes.set(ylim=(len(entries) - 0.45, -0.5), yticks=[])
    axes.set_xlabel("milliseconds a frame (logarithmic)", color=MUTED)
    _numbers_on(axes, np.concatenate([benchmark.samples[entry.name] for entry in entries]))
    told = ", ".join(f"{e.name} {e.latency.p50_ms:.2f} ms" for e in entries if e.latency)
    return to_svg(figure, f"Latency of every frame. Medians: {told}")


def budget(parts: Budget | None) -> str:
    """One bar, cut where the time goes."""
    if parts is None:
        return ""
    named = {
        "upload": parts.upload_ms, "pre": parts.pre_ms, "network": parts.network_ms, "post": parts.post_ms,
        "download": parts.download_ms, "rest": max(0.0, parts.rest_ms),
    }  # fmt: skip
    known = {name: value for name, value in named.items() if value is not None}
    whole = sum(known.values())
    figure, axes = new_axes(0.34 * len(known) + 0.45)
    for row, (value, colour) in enumerate(zip(known.values(), SERIES, strict=False)):
        left = sum(list(known.values())[:row])
        axes.barh(row, value, left=left, color=colour, height=0.6)
        axes.annotate(
            f"{value:.2f} ms, {value / whole:.0%}", (left + value, row), textcoords="offset points", xytext=(4, 0),
            va="center", size=8.5, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(known)), list(known))
    axes.set(xlim=(0, whole * 1.38))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("milliseconds into a frame", color=MUTED)
    axes.tick_params(axis="x", colors=MUTED)
    told = ", ".join(f"{name} {value:.2f} ms" for name, value in known.items())
    return to_svg(figure, f"Where a frame's time goes: {told}")


def peers(report: Report) -> str:
    """How many times as long others take, with the interval."""
    ours = {entry.name for entry in report.contestants if entry.ours}
    shown = [ratio for ratio in report.ratios if ratio.slow not in ours]
    if not shown:
        return ""
    figure, axes = new_axes(0.42 * len(shown) + 0.55)
    for row, ratio in enumerate(shown):
        axes.barh(row + 0.13, ratio.ratio, color=SERIES[2], height=0.3)
        if ratio.low is not None and ratio.high is not None:
            axes.plot([ratio.low, ratio.high], [row + 0.13] * 2, color=INK, lw=1.2)
        axes.text(0.0, row - 0.2, ratio.slow, transform=axes.get_yaxis_transform(), va="center", size=8.5, color=INK)
        axes.text(1.0, row - 0.2, f"{ratio.ratio:.2f} ({in_words(ratio.low, ratio.high)})", va="center", ha="right",
                  transform=axes.get_yaxis_transform(), size=8.5, color=INK)  # fmt: skip
        axes.plot([1, 1], [row - 0.06, row + 0.32], color=SERIES[0], lw=2)  # not through the names
    axes.set(ylim=(len(shown) - 0.5, -0.5), yticks=[], xlim=(0, None))
    axes.set_xlabel("times as long as ours (the line at 1)", color=MUTED)
    axes.tick_params(axis="x", colors=MUTED)
    told = ", ".join(f"{ratio.slow} {ratio.ratio:.2f}" for ratio in shown)
    return to_svg(figure, f"Median time over ours: {told}")


def throughput(report: Report) -> str:
    """Frames a second by frames a call and by threads calling."""
    if not (report.batches or report.callers):
        return ""
    figure, axes = new_axes(1.9)
    for series, name, colour in (
        (report.batches, "frames a call", SERIES[0]),
        (report.callers, "threads calling", SERIES[2]),
    ):
        if series:
            axes.plot(*_points(series), "o-", color=colour, ms=5, label=name)
    axes.legend(loc="lower right", fontsize=8.5, labelcolor=INK, frameon=False)
    axes.set(
        ylim=(0, 1.12 * max(p.frames_per_second for p in (*report.batches, *report.callers))),
        xticks=sorted({point.count for point in (*report.batches, *report.callers)}),
    )
    axes.set_xlabel("how many", color=MUTED)
    axes.set_ylabel("frames a second", color=MUTED)
    axes.tick_params(colors=MUTED)
    told = [f"{t.count} a call {t.frames_per_second:.0f}" for t in report.batches]
    told += [f"{t.count} threads calling {t.frames_per_second:.0f}" for t in report.callers]
    return to_svg(figure, f"Frames a second: {', '.join(told)}")


def latency_by_run(runs: Sequence[Facts]) -> str:
    """Medians with intervals, each measured in its own run."""
    known = [
        (run.name, entry.latency)
        for run in runs
        if run.benchmark and (entry := run.benchmark.report.headline()) and entry.latency
    ]
    if not known:
        return ""
    figure, axes = new_axes(0.42 * len(known) + 0.5)
    for row, (_, figures) in enumerate(known):
        if figures.p50_low_ms is not None and figures.p50_high_ms is not None:
            axes.plot([figures.p50_low_ms, figures.p50_high_ms], [row, row], color=INK, lw=1.4)
        axes.plot(figures.p50_ms, row, "o", color=SERIES[0], ms=7)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.set(xlim=(0, None), ylim=(len(known) - 0.5, -0.5))
    axes.set_xlabel("median ms a frame, measured apart", color=MUTED)
    axes.tick_params(axis="x", colors=MUTED)
    return to_svg(figure, "Median latency by run: " + ", ".join(f"{n} {f.p50_ms:.2f} ms" for n, f in known))


def _thinned(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Few enough for a page, with the slowest all there."""
    if len(values) <= _DOTS:
        return values
    ordered = np.sort(values)
    body = ordered[:-_TAIL]
    return np.concatenate([body[:: -(-len(body) // (_DOTS - _TAIL))], ordered[-_TAIL:]])


def _points(series: Sequence[Throughput]) -> tuple[list[int], list[float]]:
    return [point.count for point in series], [point.frames_per_second for point in series]


def _numbers_on(axes: Axes, values: NDArray[np.float64]) -> None:
    """Plain numbers on a logarithmic axis: 1, 2, 5, 10, ... that lie inside."""
    steps = [base * 10.0**power for power in range(-3, 6) for base in (1, 2, 5)]
    inside = [step for step in steps if values.min() * 0.8 <= step <= values.max() * 1.25]
    axes.set_xticks(inside, [f"{step:g}" for step in inside])
    axes.set_xticks([], minor=True)
    axes.tick_params(axis="x", colors=MUTED)
