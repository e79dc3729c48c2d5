"""Keep a run's benchmark among the committed results: `python -m benchmarks.keep runs/demo demo`."""

import sys
from pathlib import Path

from segpipe.rundir.directory import RunDirectory
from stages.results.benchmark import Report

RESULTS = Path(__file__).parent / "results"


def keep(run: Path, name: str, results: Path = RESULTS) -> Path:
    """Copy the report, refusing one that is partial or of something the release gate did not pass."""
    report = Report.model_validate_json(RunDirectory(run).artifact_bytes("benchmark", "report.json"))
    if report.partial or report.unvalidated:
        raise SystemExit(f"{run}: partial or not validated; such figures are not kept")
    machine = report.machine.gpu or f"{report.machine.processor}, {report.machine.cores} cores"
    folder = results / "".join(letter if letter.isalnum() else "-" for letter in machine.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = report.model_dump_json(indent=2).replace(str(run), "RUN")  # no path of the machine that measured
    path.write_text(text + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    print(keep(Path(sys.argv[1]), sys.argv[2]))
