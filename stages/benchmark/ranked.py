"""What the benchmark leaves for the runtime's `auto`: which of the run's artifacts is how fast on this machine."""

from segpipe.artifacts import held_by
from segpipe.ranking import MeasuredSpeed, Ranking, machine
from segpipe.rundir.directory import RunDirectory
from stages.measuring.rounds import ENOUGH
from stages.results.benchmark import Report


def ranking_of(report: Report, rundir: RunDirectory) -> Ranking:
    """Medians end to end. Of a few samples none is believed, nor those of rounds that were cut short."""
    held = {f"segpipe {row.name}": row for row in held_by(rundir.manifest)}
    measured = {}
    for entry in () if report.partial else report.contestants:
        row, latency = held.get(entry.name), entry.latency
        if row and latency and entry.kind == "end to end" and latency.samples >= ENOUGH:
            sha256 = rundir.recorded(row.stage, row.file).sha256
            measured[row.name] = MeasuredSpeed(artifact_sha256=sha256, p50_ms=latency.p50_ms)
    return Ranking(machine=machine(), measured=measured)
