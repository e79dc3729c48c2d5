"""The gate's report for people: Markdown for a terminal or a pull request, and one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from typing import Any

from segpipe.artifacts import EXPORT
from segpipe.rundir.latest import FOLDER
from segpipe.verdict import Verdict
from stages.pages.rendering import Link, render
from stages.pages.sheets import read_sheet
from stages.results.gate import GateReport
from stages.results.quantisation import PAGE_NAME

_LINKS = (Link("Report", "../../report.html", "once segpipe report has written it"), Link("Release gate"))
_QUANTISATION = Link("Quantisation", f"../../{FOLDER}/{EXPORT}/{PAGE_NAME}")
"""The page lies in RUN/validate/KEY and RUN/latest/validate, the report in RUN, later."""


def markdown(report: GateReport, verdicts: Sequence[Verdict]) -> str:
    """Tables and lines."""
    return render("gate.md.j2", autoescape=False, **_told(report, verdicts))


def html(report: GateReport, verdicts: Sequence[Verdict], pngs: Mapping[str, bytes], quantised: bool = False) -> str:
    """A page that needs nothing beside it. `quantised`: export left a page of its own."""
    sheets = {name: sheet for name, png in pngs.items() if (sheet := read_sheet(png))}
    links = (*_LINKS, _QUANTISATION) if quantised else _LINKS
    return render("gate.html.j2", links, **_told(report, verdicts), sheets=sheets)


def _told(report: GateReport, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """`things`: hops of a network that tells them one by one."""
    things = [{"name": name, "things": hop.things} for name, hop in report.hops.items() if hop.things is not None]
    return {"report": report, "failed": report.failed(), "verdicts": verdicts, "things": things}
