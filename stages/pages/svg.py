"""matplotlib figures as inline SVG whose colours are the page's own, so that both colour schemes are one picture."""

import io
import re
from html import escape
from itertools import count
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 7))
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", SURFACE: "surface"} | {
    colour: f"s{number}" for number, colour in enumerate(SERIES, 1)
}
"""Colours that no picture needs, each standing for one of the page's CSS variables."""

WIDTH = 4.2  # inches; drawn narrow, so that text stays readable on a phone
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and it takes the page's font
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}
_serial = count(1)
_QUOTED = "@description@"  # put in last: a description may hold what a replacement would read as a command


def new_axes(height: float) -> tuple[Figure, Axes]:
    """An empty figure in the page's style; finish it with `to_svg`."""
    figure, axes = new_panels(height, 1)
    return figure, axes[0]


def new_panels(height: float, rows: int) -> tuple[Figure, list[Axes]]:
    """As `new_axes`, with several axes one above the other that share x."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    for patch in (figure.patch, *(axes.patch for axes in panels)):
        patch.set_alpha(0)
    return figure, panels


def to_svg(figure: Figure, description: str) -> str:
    """One <svg> element that describes itself to a screen reader and shares no id with others on the page."""
    text = io.StringIO()
    nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        figure.savefig(text, format="svg", metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg)
    prefix = f"p{next(_serial)}-"
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = svg.replace("url(#", f"url(#{prefix}").replace('href="#', f'href="#{prefix}')
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(
        r'<svg[^>]*viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{_QUOTED}">', svg, count=1
    )
    return svg.replace(_QUOTED, escape(description, quote=True))
