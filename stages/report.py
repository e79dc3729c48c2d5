"""The report of a run: one self-contained HTML page of what was built from what, with its figures and pictures."""

import base64
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from segpipe.rundir import RunDirectory

FILE_NAME = "report.html"
_ORDER = ("import", "train", "export", "build", "validate", "benchmark")


def write_report(rundir: RunDirectory) -> Path:
    """Write RUN/report.html from the manifest and the stages' own reports."""
    stages = {name: rundir.manifest.stages[name] for name in _ORDER if name in rundir.manifest.stages}
    template = Environment(
        loader=PackageLoader("stages", "templates"), autoescape=True, undefined=StrictUndefined
    ).get_template("report.html.j2")
    page = template.render(
        name=rundir.path.resolve().name,
        contract=rundir.manifest.contract_sha256 or "",
        stages={name: record.model_dump() for name, record in stages.items()},
        gate=_read(rundir, "validate", "report.json"),
        bench=_read(rundir, "benchmark", "report.json"),
        worst=_picture(rundir, "validate", "worst.png"),
    )
    path = rundir.path / FILE_NAME
    path.write_text(page, encoding="utf-8")
    return path


def _read(rundir: RunDirectory, stage: str, name: str) -> Any:
    if stage not in rundir.manifest.stages:
        return None
    return json.loads(rundir.artifact_bytes(stage, name))


def _picture(rundir: RunDirectory, stage: str, name: str) -> str:
    """A PNG as a data URI; empty when the stage has not run."""
    if stage not in rundir.manifest.stages:
        return ""
    return "data:image/png;base64," + base64.b64encode(rundir.artifact_bytes(stage, name)).decode()
