"""The report's picture of what was made from what: stages from top to bottom, lines for the files handed on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from stages.pages.svg import GRID, INK, MUTED, SERIES, SURFACE, new_axes, to_svg
from stages.report.reading import Facts, producers

_ARROW: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "color": MUTED, "lw": 1, "shrinkA": 0, "shrinkB": 1}
_ROW = 0.7  # inches, of a row of stages
_LANE = 0.035  # of the width, for each line that passes beside stages
_HIGH = 0.28  # of a row: half of a box
_OUT, _IN = -0.15, 0.2  # of a row: above a box's middle
_GAP = 0.42  # of a row: where lines run between boxes, below one row and above the next

Edge = tuple[str, str]
Place = tuple[float, float]


def lineage(facts: Facts) -> str:
    """Each stage's box; an arrow to the row below, and a line past the boxes to what is farther."""
    depth, edges = _layers(facts)
    if not depth:
        return ""
    rows = [[name for name in depth if depth[name] == level] for level in range(max(depth.values()) + 1)]
    far = [(source, target) for source, target in edges if depth[target] - depth[source] > 1]
    lanes = list(dict.fromkeys(source for source, _ in sorted(far, key=lambda edge: -depth[edge[0]])))
    room = 1 - _LANE * (len(lanes) + 0.6) if lanes else 1.0
    figure, axes = new_axes(_ROW * len(rows) + 0.1)
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 0.45, 0.55))
    axes.axis("off")
    place = {
        name: (room * (at + 0.5) / len(row), -level) for level, row in enumerate(rows) for at, name in enumerate(row)
    }
    half = min(0.24, 0.46 * room / max(len(row) for row in rows))
    boxes = _Boxes(place, half, rows)
    for source, target in edges:
        if depth[target] - depth[source] == 1:
            (x1, y1), (x2, y2) = place[source], place[target]
            axes.add_patch(FancyArrowPatch((x1, y1 - _HIGH), (x2, y2 + _HIGH), **_ARROW))
    for number, source in enumerate(lanes):
        targets = [target for name, target in far if name == source]
        way_in = _IN - 0.08 * (number % 3)  # so that lines of two lanes meet a box at two heights
        for way in boxes.ways(source, targets, room + _LANE * (number + 0.8), way_in):
            axes.plot(*zip(*way[:-1], strict=True), color=MUTED, lw=1, solid_joinstyle="round")
            axes.add_patch(FancyArrowPatch(way[-2], way[-1], **_ARROW))
    for name, at in place.items():
        _box(axes, facts, name, at, half)
    told = "; ".join(f"{target} from {source}" for source, target in edges)
    return to_svg(figure, f"What was made from what: {told}")


class _Boxes:
    """Where boxes are, and how a line gets from one to the room on the right."""

    def __init__(self, place: Mapping[str, Place], half: float, rows: Sequence[Sequence[str]]) -> None:
        self.place, self.half = place, half
        self._last = {row[-1] for row in rows}

    def ways(self, source: str, targets: Sequence[str], lane: float, way_in: float) -> Iterator[list[Place]]:
        """From a box down its own lane to each target."""
        for target in targets:
            yield [*self.way_out(source, lane, _OUT), *self.way_in(target, lane, way_in)]

    def way_out(self, name: str, lane: float, shift: float) -> list[Place]:
        """From a box to its lane: out of its right side, or below it and past its neighbours."""
        x, y = self.place[name]
        if name in self._last:
            return [(x + self.half, y + shift), (lane, y + shift)]
        x, between = x + shift / 4, y - _GAP - shift / 4
        return [(x, y - _HIGH), (x, between), (lane, between)]

    def way_in(self, name: str, lane: float, shift: float) -> list[Place]:
        """From a lane to a box: into its right side, or from above."""
        x, y = self.place[name]
        if name in self._last:
            return [(lane, y + shift), (x + self.half, y + shift)]
        x, between = x + shift / 4, y + _GAP + shift / 4
        return [(lane, between), (x, between), (x, y + _HIGH)]


def _box(axes: Axes, facts: Facts, name: str, at: Place, half: float) -> None:
    x, y = at
    axes.add_patch(
        FancyBboxPatch(
            (x - half, y - _HIGH), 2 * half, 2 * _HIGH, boxstyle="round,pad=0,rounding_size=0.03", mutation_aspect=3,
            facecolor=SURFACE, edgecolor=SERIES[0] if name in facts.stages else GRID, lw=1.2,
        )
    )  # fmt: skip
    axes.text(x, y + 0.1, name, ha="center", va="center", weight="bold", color=INK)
    axes.text(x, y - 0.13, _subtitle(facts, name), ha="center", va="center", size=8, color=MUTED)


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
