"""The README's table of speeds, made from benchmarks/results: `python -m benchmarks.readme_table` writes it anew."""

from pathlib import Path

from benchmarks.keep import RESULTS
from stages.benchmark_report import Report

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- speeds: made by `python -m benchmarks.readme_table` -->", "<!-- /speeds -->"
_NONE = "No figures are kept yet: `segpipe benchmark RUN`, then `python -m benchmarks.keep RUN NAME`."
_HEAD = "| contestant | p50 ms | 95 % interval | times ours | same masks |\n|---|---:|---:|---:|---:|"


def table(results: Path = RESULTS) -> str:
    """Every committed result, one table each under a line that says what was measured where."""
    files = sorted(results.glob("*/*.json"))
    found = [_one(path.stem, Report.model_validate_json(path.read_bytes())) for path in files]
    return "\n\n".join(found) or _NONE


def with_table(readme: str, text: str) -> str:
    """The README with what stands between the two marks replaced."""
    before, found, rest = readme.partition(START)
    _, ended, after = rest.partition(END)
    if not (found and ended):
        raise ValueError(f"the README needs the lines '{START}' and '{END}'")
    return f"{before}{START}\n\n{text}\n\n{END}{after}"


def _one(name: str, report: Report) -> str:
    conditions = report.conditions
    machine = report.machine.gpu or report.machine.processor
    lines = [
        f"**{name}**: frames of {report.frame[0]}x{report.frame[1]}, network input "
        f"{'x'.join(map(str, report.network_input))}, {machine}, {report.threads} of {report.machine.cores} cores; "
        f"load {conditions.load_before} before and {conditions.load_after} after, other work had "
        f"{conditions.others_share:.0%} of the processor.",
        "",
        _HEAD,
    ]
    ratios = {ratio.slow: ratio for ratio in report.ratios}
    for entry in report.contestants:
        if entry.latency is None:
            continue
        ratio = None if entry.ours else ratios.get(entry.name)
        times = "" if ratio is None else f"{ratio.ratio:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
        same = "" if entry.agreement is None else f"{entry.agreement:.3%}"
        figures = entry.latency
        lines.append(
            f"| {entry.name} | {figures.p50_ms:.2f} | {figures.p50_low_ms:.2f} to {figures.p50_high_ms:.2f} "
            f"| {times} | {same} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8"), table()), encoding="utf-8")
