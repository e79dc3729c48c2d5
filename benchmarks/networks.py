"""The matrix: every listed network against the whole contract, each in a process of its own. Run by `make matrix`.

Writes results/networks.json and networks.md, and the figures that `segpipe models` prints. Exits 1 where a network
cannot do what it should, or can do what the registry says it cannot.
"""

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from segpipe.installed import versions
from segpipe.processor import processor
from stages.config.root import ModelConfig
from stages.models import catalogue
from stages.models.catalogue import NetworkFigures
from stages.models.registry import ABILITIES, Known, known_networks

RESULTS = Path(__file__).with_name("results")
CHECKS = ("stride", "learning", "round_trip", *ABILITIES)
_PACKAGES = ("torch", "torchvision", "segmentation_models_pytorch", "timm", "onnx", "onnxruntime-gpu", "tensorrt_rtx")
_HEADINGS = {
    "stride": "scores",
    "round_trip": "round trip",
    "open_sizes": "open sizes",
    "fp16_engine": "engine",
    "batch_of_one": "batch 1",
}
_YES = "yes"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", metavar="NAME", help="check one entry by its title and write its figures, no table")
    parser.add_argument("--row", type=int, help="only this entry, as JSON on the last line of stdout")
    parser.add_argument("--only", default="", help="entries whose title contains this; the others keep their rows")
    parser.add_argument("--timeout", type=float, default=900, help="seconds a network may take")
    options = parser.parse_args()
    if options.row is not None:
        print(json.dumps(examine(known_networks()[options.row])))
        return 0
    if options.one is not None:
        return _only_figures(options.one, options.timeout)
    rows = _kept_rows() if options.only else {}
    for index, known in enumerate(known_networks()):
        if options.only in known.title:
            rows[known.title] = _in_subprocess(index, options.timeout)
            write_results([rows[known.title] for known in known_networks() if known.title in rows])
    broken = [title for title, row in rows.items() if row["broken"]]
    print(f"{len(rows) - len(broken)} of {len(rows)} networks do what is declared; {len(known_networks())} are listed")
    return 1 if broken or len(rows) < len(known_networks()) else 0


def _only_figures(title: str, timeout: float) -> int:
    """Check one network and put its figures into the catalogue; its row of the tables comes with the whole matrix."""
    titles = [known.title for known in known_networks()]
    if title not in titles:
        raise SystemExit(f"no network '{title}' is listed; stages/models/registry.py lists {', '.join(titles)}")
    row = _in_subprocess(titles.index(title), timeout)
    if row["figures"]:
        figures = catalogue.read() | {title: NetworkFigures(**row["figures"])}
        catalogue.write({name: figures[name] for name in titles if name in figures})
    for check in row["broken"]:
        print(f"{check}: {row['answers'].get(check)}")
    return 1 if row["broken"] or not row["figures"] else 0


def examine(known: Known) -> dict[str, Any]:
    """Every check on one network: `yes`, or why not."""
    from stages.models.measure import measure
    from tests import network_checks as checks

    config = ModelConfig(name=known.name, options=dict(known.options))
    subject = checks.Subject.make(config, checks.SIZES[:1] if "open_sizes" in known.cannot else checks.SIZES)
    answers: dict[str, Any] = {
        "stride": _answer(lambda: checks.check_stride(subject)),
        "round_trip": _answer(lambda: checks.check_round_trip(subject)),
        "batch_of_one": _answer(lambda: checks.check_batch_of_one(checks.Subject.make(config))),
        "learning": _answer(lambda: checks.check_learning(checks.Subject.make(config))),
    }
    exported: dict[str, bytes] = {}
    is_open = True

    def export(open_sizes: bool) -> None:
        exported.update(checks.export(subject, open_sizes=open_sizes))
        wanted = replace(subject, sizes=checks.SIZES) if open_sizes else subject
        checks.check_export(wanted, exported, open_sizes=open_sizes)

    answers["open_sizes"] = answers["export"] = _answer(lambda: export(True))
    if answers["open_sizes"] != _YES:
        is_open = False
        exported.clear()
        answers["export"] = _answer(lambda: export(False))
    engine: dict[str, Any] = {}

    def build() -> None:
        engine.update(checks.check_fp16_engine(subject, exported, open_sizes=is_open))

    answers["fp16_engine"] = _answer(build) if exported else "no graph"
    return {"answers": answers, "figures": vars(measure(config)), "engine": engine}


def _answer(check: Callable[[], object]) -> str:
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the answer this table is for
        return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    return _YES


def _in_subprocess(index: int, timeout: float) -> dict[str, Any]:
    """One network's row; a crash or a timeout is its own row's trouble."""
    known = known_networks()[index]
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.networks", "--row", str(index)]
    row: dict[str, Any] = {
        "title": known.title,
        "cannot": dict(known.cannot),
        "figures": None,
        "answers": {},
        "engine": {},
    }
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        row |= json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        row["answers"] = dict.fromkeys(CHECKS, f"took more than {timeout:.0f} s")
    except subprocess.CalledProcessError as error:
        row["answers"] = dict.fromkeys(CHECKS, (error.stderr.strip().splitlines() or ["crashed"])[-1])
    row["seconds"] = round(time.monotonic() - started, 1)
    row["broken"] = [check for check in CHECKS if (row["answers"].get(check) == _YES) == (check in known.cannot)]
    trouble = f"; broken: {', '.join(row['broken'])}" if row["broken"] else ""
    print(f"{known.title}: {row['seconds']} s{trouble}", flush=True)
    return row


def write_results(rows: list[dict[str, Any]]) -> None:
    """The committed results, and the figures for `segpipe models` once every network has some."""
    content = {"environment": _environment(), "networks": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "networks.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "networks.md").write_text(as_markdown(content))
    if all(row["figures"] for row in rows) and len(rows) == len(known_networks()):
        catalogue.write({row["title"]: NetworkFigures(**row["figures"]) for row in rows})


def _environment() -> dict[str, str]:
    machine = {"machine": f"{platform.machine()}, {processor()}", "python": platform.python_version()}
    return machine | versions(*_PACKAGES)


def _kept_rows() -> dict[str, dict[str, Any]]:
    """The committed rows by title; of another machine or other versions, none may be kept."""
    content = json.loads((RESULTS / "networks.json").read_text())
    if content["environment"] != _environment():
        raise SystemExit("results/networks.json is of another machine or other versions: run the whole matrix")
    return {row["title"]: row for row in content["networks"]}


def as_markdown(content: dict[str, Any]) -> str:
    """The table for people."""
    rows: list[dict[str, Any]] = content["networks"]
    listed = len(known_networks())
    environment = ", ".join(f"{key} {value}" for key, value in content["environment"].items())
    lines = [
        "# Networks by name, and what each can do",
        "",
        *([f"**Incomplete: {len(rows)} of {listed}.**", ""] if len(rows) < listed else []),
        f"`make matrix` on {environment}. No GPU: engines are built, not run.",
        "",
        "Every network with random weights, 128x128 and 128x192. *scores*: finite, at the declared stride. *learning*: "
        "the loss falls on one batch. *round trip*: safetensors gives the same scores bit by bit. *export*: ONNX "
        "Runtime equals PyTorch (FP32 relative L2 <= 1e-4, or 10 times what the input's last bit changes), and the "
        "FP16 graph is finite. *open sizes*: one graph for every height and width, equal at several. *engine*: "
        "TensorRT for RTX builds the FP16 graph with at least 90 % of the compute layers in FP16; then that share, "
        "megabytes and seconds. *batch 1*: trains with one image a step. GFLOPs at 512x1024 with 19 classes, a "
        "multiply and an add as two; parameters with auxiliary heads.",
        "",
        "| network | stride | multiple | parameters, M | GFLOPs | "
        + " | ".join(map(_heading, CHECKS))
        + " | FP16 | MB | build, s |",
        "|---|---:|---:|---:|---:|" + "---|" * len(CHECKS) + "---:|---:|---:|",
        *(_markdown_row(row) for row in rows),
        "",
        *_reasons(rows),
    ]
    return "\n".join(lines) + "\n"


def _markdown_row(row: dict[str, Any]) -> str:
    figures = row["figures"]
    numbers = ["?"] * 4
    if figures:
        size = tuple(figures["gflops_size"])
        at = "" if size == (512, 1024) else f" at {size[0]}x{size[1]}"
        numbers = [
            str(figures["stride"]), str(figures["size_multiple"]), f"{figures['parameters'] / 1e6:.2f}",
            f"{figures['gflops']:.1f}{at}",
        ]  # fmt: skip
    cells = [_cell(row, check) for check in CHECKS]
    return "| " + " | ".join([row["title"], *numbers, *cells, *_engine_cells(row["engine"])]) + " |"


def _engine_cells(engine: dict[str, Any]) -> list[str]:
    if not engine:
        return ["-"] * 3
    return [f"{engine['fp16_share']:.0%}", f"{engine['engine_bytes'] / 1e6:.1f}", f"{engine['seconds']:.1f}"]


def _cell(row: dict[str, Any], check: str) -> str:
    if check in row["broken"]:
        return "**unexpected: " + ("yes" if row["answers"].get(check) == _YES else "no") + "**"
    return "no" if check in row["cannot"] else _YES


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    """Each declared inability with its reason and what was seen; each unexpected answer."""
    lines = ["What a network cannot do is declared in stages/models/registry.py, and was seen to fail here:", ""]
    reasons = sorted({(check, reason) for row in rows for check, reason in row["cannot"].items()})
    for check, reason in reasons:
        names = [row["title"] for row in rows if row["cannot"].get(check) == reason]
        lines.append(f"- {_heading(check)}: {reason} ({', '.join(names)})")
    for row in rows:
        lines += [f"- UNEXPECTED {row['title']}, {_heading(c)}: {row['answers'].get(c)}" for c in row["broken"]]
    return lines


def _heading(check: str) -> str:
    return _HEADINGS.get(check, check)


if __name__ == "__main__":
    sys.exit(main())
