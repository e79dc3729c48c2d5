"""The report's pictures of training, accuracy and origin. Each returns inline SVG, or nothing without figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from stages.report.reading import ClassLine, Confusion, Facts, producers
from stages.report.speed import budget, latency, latency_by_run, peers, throughput
from stages.report.svg import GRID, INK, MUTED, SERIES, SURFACE, WIDTH, new_axes, new_panels, to_svg

__all__ = [
    "accuracy_by_run", "budget", "class_iou", "confusion", "curves", "latency", "latency_by_run", "lineage", "peers",
    "throughput",
]  # fmt: skip

_ARROW: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "color": MUTED, "lw": 1, "shrinkA": 1, "shrinkB": 1}
_ROW = 0.78  # inches, of a row of stages
_BESIDE_ARROWS = 0.86  # share of the width for stages where arrows pass beside them
_MOST_CELLS = 30  # classes up to which a confusion matrix is readable


def lineage(facts: Facts) -> str:
    """What was made from what: stages from top to bottom, an arrow for each file handed on."""
    depth, edges = _layers(facts)
    if not depth:
        return ""
    rows = [[name for name in depth if depth[name] == level] for level in range(max(depth.values()) + 1)]
    figure, axes = new_axes(_ROW * len(rows) + 0.1)
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 0.45, 0.55))
    axes.axis("off")
    width = _BESIDE_ARROWS if any(depth[target] - depth[source] > 1 for source, target in edges) else 1.0
    place = {
        name: (width * (column + 0.5) / len(row), -level)
        for level, row in enumerate(rows)
        for column, name in enumerate(row)
    }
    half = min(0.24, 0.46 * width / max(len(row) for row in rows))
    for source, target in edges:
        (x1, y1), (x2, y2) = place[source], place[target]
        if depth[target] - depth[source] == 1:
            axes.add_patch(FancyArrowPatch((x1, y1 - 0.3), (x2, y2 + 0.3), **_ARROW))
        else:  # past the stages between: around their right side, the farther the wider
            skipped = depth[target] - depth[source]
            room = WIDTH * (0.97 - max(x1, x2) - half)  # inches, for the half of a bend that a curve goes out
            bend = min(0.25 + 0.1 * skipped, 2 * room / (_ROW * skipped))
            axes.add_patch(
                FancyArrowPatch(
                    (x1 + half, y1 - 0.1), (x2 + half, y2 + 0.1), connectionstyle=f"arc3,rad=-{bend}", **_ARROW
                )
            )
    for name, (x, y) in place.items():
        axes.add_patch(
            FancyBboxPatch(
                (x - half, y - 0.28), 2 * half, 0.56, boxstyle="round,pad=0,rounding_size=0.03", mutation_aspect=3,
                facecolor=SURFACE, edgecolor=SERIES[0] if name in facts.stages else GRID, lw=1.2,
            )
        )  # fmt: skip
        axes.text(x, y + 0.1, name, ha="center", va="center", weight="bold", color=INK)
        axes.text(x, y - 0.13, _subtitle(facts, name), ha="center", va="center", size=8, color=MUTED)
    told = "; ".join(f"{target} from {source}" for source, target in edges)
    return to_svg(figure, f"What was made from what: {told}")


def curves(history: Mapping[str, list[float]]) -> str:
    """Loss and validation mIoU by epoch, one above the other: they share no unit."""
    epochs = history.get("epoch", [])
    shown = [name for name in ("loss", "val_miou") if name in history]
    if len(epochs) < 2 or not shown:
        return ""
    figure, panels = new_panels(1.4 * len(shown) + 0.3, len(shown))
    for panel, name, colour in zip(panels, shown, SERIES, strict=False):
        values = np.array(history[name])
        panel.plot(epochs, values, color=colour)
        panel.set_title({"loss": "training loss", "val_miou": "validation mIoU"}[name], loc="left", size=9, color=INK)
        best = int(values.argmin() if name == "loss" else values.argmax())
        panel.plot(epochs[best], values[best], "o", color=colour, ms=5)
        panel.annotate(f"{values[best]:.3f}", (epochs[best], values[best]), textcoords="offset points",
                       xytext=(-4, 5 if name == "loss" else -12), ha="right", color=INK, size=8.5)  # fmt: skip
        _plain(panel)
    panels[-1].locator_params(axis="x", integer=True)
    panels[-1].set_xlabel("epoch", color=MUTED)
    told = "; ".join(f"{name} from {history[name][0]:.3f} to {history[name][-1]:.3f}" for name in shown)
    return to_svg(figure, f"Training over {len(epochs)} epochs: {told}")


def class_iou(classes: Sequence[ClassLine]) -> str:
    """A bar for each class."""
    known = [entry for entry in classes if entry.iou is not None]
    if not known:
        return ""
    figure, axes = new_axes(0.26 * len(known) + 0.5)
    values = [entry.iou or 0.0 for entry in known]
    bars = axes.barh([entry.name for entry in known], values, color=SERIES[0], height=0.62)
    axes.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, color=INK, size=8.5)
    axes.set(xlim=(0, 1.12), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("IoU", color=MUTED)
    _plain(axes)
    return to_svg(figure, "IoU by class: " + ", ".join(f"{e.name} {e.iou:.3f}" for e in known))


def confusion(matrix: Confusion) -> str:
    """Shares of each label's pixels; darker is more."""
    labelled = matrix.counts.sum(1, keepdims=True)
    shares = np.divide(matrix.counts, labelled, out=np.zeros(matrix.counts.shape), where=labelled > 0)
    classes = len(matrix.classes)
    if classes > _MOST_CELLS:
        return ""
    figure, axes = new_axes(min(5.5, 1.1 + 0.36 * classes))
    for (row, column), share in np.ndenumerate(shares):
        axes.add_patch(_cell(column, row, float(share)))
        if classes <= 12 and share >= 0.005:
            axes.text(column, row, f"{share:.0%}", ha="center", va="center", size=8, color=INK)
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="auto")
    axes.set_xticks(range(classes), matrix.classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), matrix.classes)
    axes.set_xlabel("predicted", color=MUTED)
    axes.set_ylabel("label", color=MUTED)
    axes.grid(visible=False)
    _plain(axes)
    right = ", ".join(f"{name} {shares[i, i]:.1%}" for i, name in enumerate(matrix.classes))
    return to_svg(figure, f"Confusion matrix. Share of each label's pixels predicted as that class: {right}")


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


def _layers(facts: Facts) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """How far each stage is from what came from outside, and who feeds whom."""
    edges: dict[tuple[str, str], None] = {}
    for name, record in facts.stages.items():
        for stage, file in producers(record):
            if stage in facts.stages or not stage:
                edges[(stage or file, name)] = None
    depth: dict[str, int] = {}
    for source, _ in edges:
        if source not in facts.stages:
            depth[source] = 0
    for name in facts.stages:  # in order: what feeds a stage comes before it
        depth[name] = max((depth.get(source, -1) + 1 for source, target in edges if target == name), default=0)
    return depth, list(edges)


def _subtitle(facts: Facts, name: str) -> str:
    if name not in facts.stages:
        return "from outside"
    record = facts.stages[name]
    return f"{record.key[:8]}, {record.seconds:.1f} s, {len(record.outputs)} files"


def _cell(column: int, row: int, share: float) -> FancyBboxPatch:
    return FancyBboxPatch(
        (column - 0.47, row - 0.47), 0.94, 0.94, boxstyle="square,pad=0", facecolor=SERIES[0], edgecolor="none",
        alpha=0.04 + 0.6 * share,
    )  # fmt: skip


def _plain(axes: Axes) -> None:
    """Axes made after the style was left: colours of ticks and grid again."""
    axes.tick_params(axis="x", colors=MUTED)
    axes.tick_params(axis="y", colors=INK)
