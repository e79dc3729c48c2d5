"""The gate's report for people: Markdown for a terminal or a pull request, and one self-contained HTML page."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.verdict import Verdict
from stages.results.gate import GateReport, figure, percent


def markdown(report: GateReport, verdicts: Sequence[Verdict]) -> str:
    """Tables and lines."""
    return _render("gate.md.j2", report, verdicts, {}, autoescape=False)


def html(report: GateReport, verdicts: Sequence[Verdict], pngs: Mapping[str, bytes]) -> str:
    """A page that needs nothing beside it."""
    uris = {name: "data:image/png;base64," + base64.b64encode(png).decode() for name, png in pngs.items()}
    return _render("gate.html.j2", report, verdicts, uris, autoescape=True)


def _render(
    template: str, report: GateReport, verdicts: Sequence[Verdict], pictures: dict[str, str], autoescape: bool
) -> str:
    environment = Environment(
        loader=PackageLoader("stages", "templates"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "percent": percent}
    context: dict[str, Any] = {"report": report, "failed": report.failed(), "verdicts": verdicts, "pictures": pictures}
    return environment.get_template(template).render(context)
