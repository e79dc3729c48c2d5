"""The tables of docs/speed.md, made from benchmarks/results: `python -m benchmarks.speed_table` writes it anew."""

import json
from pathlib import Path
from typing import Any

from benchmarks.keep import RESULTS
from stages.measuring.rounds import in_words
from stages.results.benchmark import Report

PAGE = Path(__file__).parents[1] / "docs/speed.md"
CPU_START, CPU_END = "<!-- cpu: made by `python -m benchmarks.speed_table` -->", "<!-- /cpu -->"
START, END = "<!-- speeds: made by `python -m benchmarks.speed_table` -->", "<!-- /speeds -->"
TARGETS = {"openvino-bf16": ">= 1.6"}
_NONE = "No figures are kept yet: `segpipe benchmark RUN`, then `python -m benchmarks.keep RUN NAME`."
_HEAD = "| contestant | p50 ms | 95 % interval | times ours | same masks |\n|---|---:|---:|---:|---:|"


def table(results: Path = RESULTS) -> str:
    """Every committed result, one table each under a line that says what was measured where."""
    files = sorted(results.glob("*/*.json"))
    found = [_one(path.stem, Report.model_validate_json(path.read_bytes())) for path in files]
    return "\n\n".join(found) or _NONE


def cpu_table(results: Path = RESULTS) -> str:
    """The CPU runtime's targets and what was measured, one table for each processor that was measured."""
    return "\n\n".join(_cpu(json.loads(path.read_bytes())) for path in sorted(results.glob("runtime_cpu*.json")))


def _cpu(report: dict[str, Any]) -> str:
    head = f"{report['machine']['processor']}, {report['threads']} threads, {report['rounds']} interleaved rounds; "
    rows = [f"| {what} | {target} | {found} |" for what, target, found in _cpu_rows(report)]
    command = "`python -m benchmarks.runtime_cpu runs/demo`. Medians, with 95 % intervals."
    return "\n".join([head + command, "", "| what | target | measured |", "|---|---:|---:|", *rows])


def with_tables(page: str, speeds: str, cpu: str) -> str:
    """The page with both tables between their marks."""
    return _between(_between(page, START, speeds, END), CPU_START, cpu, CPU_END)


def _between(page: str, start: str, text: str, end: str) -> str:
    before, found, rest = page.partition(start)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page needs the lines '{start}' and '{end}'")
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def _cpu_rows(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What, target (that was set), measured."""
    eleven, nineteen = (report[f"whole frame, {classes} classes"] for classes in (11, 19))
    post = report["post-processing alone, 19 classes"]
    openvino = report.get("by OpenVINO, 19 classes", {"faster": {}})["faster"]
    return [
        ("pre- and post-processing of the bare call, 11 classes", "<= 0.25", _ratio(eleven["pre_and_post_of_bare"])),
        ("the same, 19 classes", "", _ratio(nineteen["pre_and_post_of_bare"])),
        ("whole frame, times faster than the usual PyTorch way", ">= 3", _ratio(eleven["faster_than_usual"])),
        ("the same, 19 classes", "", _ratio(nineteen["faster_than_usual"])),
        ("post-processing, times faster than torch", ">= 12", _ratio(post["faster_than_torch"])),
        ("post-processing, times faster than OpenCV and numpy", ">= 5", _ratio(post["faster_than_opencv"])),
        ("pixels of its mask unlike torch's", "0", str(post["pixels_unlike_torch"])),
        ("`stream` over a plain loop", ">= 1.15", _ratio(report["stream, 11 classes"]["stream_over_loop"])),
        ("opening a run, beside its backend", "< 1000 ms", f"{report['opening']['beside_the_backend_ms']:.1f} ms"),
        *(
            (f"{name} over ONNX Runtime, 19 classes", TARGETS.get(name, ""), _ratio(openvino[name]))
            for name in openvino
        ),
    ]


def _ratio(measured: list[float]) -> str:
    ratio, low, high = measured
    return f"{ratio:.2f} ({in_words(low, high)})"


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
        times = "" if ratio is None else f"{ratio.ratio:.2f} ({in_words(ratio.low, ratio.high)})"
        same = "" if entry.agreement is None else f"{entry.agreement:.3%}"
        figures = entry.latency
        lines.append(
            f"| {entry.name} | {figures.p50_ms:.2f} | {in_words(figures.p50_low_ms, figures.p50_high_ms)} "
            f"| {times} | {same} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), table(), cpu_table()), encoding="utf-8")
