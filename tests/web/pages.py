"""The pages that stand still: a run's report and gate, a comparison, many classes, and some of the documentation."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from segpipe.rundir.directory import RunDirectory
from stages.report import write_comparison, write_report
from tests.children import PATIENCE_S
from tests.old_runs import unpack
from tests.trained import replace_output

LOOK = str(Path(__file__).with_name("still.py"))
SITE = Path("build/docs/site")
DOCUMENTED = ("index.html", "tutorials/own-data.html", "reference/segpipe-toml.html")
CLASSES = 30


def problems(run: Path, out: Path, browser_python: str, chromium: str, axe: Path) -> list[str]:
    """What a browser and axe-core find wrong on them, in words. Photographs lie in a folder of each page."""
    shutil.rmtree(out, ignore_errors=True)
    pages = {**of_runs(run, out), **of_the_documentation()}
    wanted = {"chromium": chromium, "out": str(out), "axe": str(axe), "pages": pages}
    done = subprocess.run(
        [browser_python, LOOK],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    if done.returncode:
        return [done.stderr]
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout)
    return [f"{name}, {kind}: {line}" for name, seen in found.items() for kind, lines in seen.items() for line in lines]


def of_runs(run: Path, out: Path) -> dict[str, str]:
    """Of a run that was judged, and of one that has every stage."""
    whole = unpack("run", out / "runs")
    judged = Path(shutil.copytree(run, out / "runs/judged"))
    many = with_classes(Path(shutil.copytree(whole, out / "runs/many classes")), CLASSES)
    runs = [RunDirectory(path) for path in (judged, whole, many)]
    paths = {
        "report": write_report(runs[1]),
        "report-30": write_report(runs[2]),
        "gate": runs[0].artifact("validate", "gate.html"),
        "comparison": write_comparison(runs, out / "comparison.html"),
    }
    return {name: path.resolve().as_uri() for name, path in paths.items()}


def of_the_documentation() -> dict[str, str]:
    """Three kinds of page: with a picture, with code, with wide tables. None where `make docs` was not called."""
    if not SITE.is_dir():
        print("the documentation is left out: `make docs` writes it")
        return {}
    return {f"docs-{Path(name).stem}": (SITE / name).resolve().as_uri() for name in DOCUMENTED}


def with_classes(run: Path, count: int) -> Path:
    """The run as if its network told so many classes apart."""
    names = [f"class number {number}" for number in range(count)]
    counts = (np.eye(count, dtype=int) * 900 + 3).tolist()
    text = json.dumps({"classes": names, "val": counts, "test": counts})
    replace_output(RunDirectory(run), "train", "confusion.json", text.encode())
    manifest = json.loads((run / "manifest.json").read_text())
    figures = manifest["stages"]["train"]["figures"]
    scores = next(iter(figures["test_classes"].values()))
    figures["test_classes"] = dict.fromkeys(names, scores)
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run
