"""The report's pictures of training, accuracy and origin. Each returns inline SVG, or nothing without figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from stages.pages.svg import INK, MUTED, SERIES, new_axes, new_panels, to_svg
from stages.report.lineage import lineage
from stages.report.reading import Facts
from stages.report.speed import budget, latency, latency_by_run, peers, throughput

__all__ = [
    "accuracy_by_run", "budget", "curves", "latency", "latency_by_run", "lineage", "peers",
    "throughput",
]  # fmt: skip


_CURVES = {"loss": "training loss", "val_miou": "validation mIoU", "val_ap": "validation AP"}
"""Columns of history.csv that are drawn; a training has one of the last two."""


def curves(history: Mapping[str, list[float]]) -> str:
    """Loss and validation mIoU, or AP, by epoch, one above the other: they share no unit."""
    epochs = history.get("epoch", [])
    shown = [name for name in _CURVES if name in history]
    if len(epochs) < 2 or not shown:
        return ""
    figure, panels = new_panels(1.4 * len(shown) + 0.3, len(shown))
    for panel, name, colour in zip(panels, shown, SERIES, strict=False):
        values = np.array(history[name])
        panel.plot(epochs, values, color=colour)
        panel.set_title(_CURVES[name], loc="left", size=9, color=INK)
        best = int(values.argmin() if name == "loss" else values.argmax())
        panel.plot(epochs[best], values[best], "o", color=colour, ms=5)
        panel.annotate(f"{values[best]:.3f}", (epochs[best], values[best]), textcoords="offset points",
                       xytext=(-4, 5 if name == "loss" else -12), ha="right", color=INK, size=8.5)  # fmt: skip
        _plain(panel)
    panels[-1].locator_params(axis="x", integer=True)
    panels[-1].set_xlabel("epoch", color=MUTED)
    told = "; ".join(f"{name} from {history[name][0]:.3f} to {history[name][-1]:.3f}" for name in shown)
    return to_svg(figure, f"Training over {len(epochs)} epochs: {told}")


def accuracy_by_run(runs: Sequence[Facts]) -> str:
    """Test mIoU of each run."""
    known = [(run.name, run.miou) for run in runs if run.miou is not None]
    if not known:
        return ""
    figure, axes = new_axes(0.4 * len(known) + 0.5)
    bars = axes.barh(range(len(known)), [value for _, value in known], color=SERIES[0], height=0.55)
    axes.bar_label(bars, [f"{value:.4f}" for _, value in known], padding=3, color=INK, size=8.5)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.set(xlim=(0, 1.15), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mIoU", color=MUTED)
    _plain(axes)
    return to_svg(figure, "mIoU by run: " + ", ".join(f"{name} {value:.4f}" for name, value in known))


def _plain(axes: Axes) -> None:
    """Axes made after the style was left: colours of ticks and grid again."""
    axes.tick_params(axis="x", colors=MUTED)
    axes.tick_params(axis="y", colors=INK)
