"""The pages that stand still: a run's report and gate, a comparison, many classes, and some of the documentation."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np

from segpipe.artifacts import FP8_GRAPH, INT8_CPU_GRAPH, INT8_GRAPH
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.testing import make_frame
from stages.export.int8_page import page
from stages.report import write_comparison, write_report
from stages.results.quantisation import CalibrationFrames, Quantisation, QuantisedGraph, QuantisedLayer, TriedGraph
from tests.children import PATIENCE_S, SEGPIPE
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
        "quantisation": quantisation(out / "quantisation.html"),
        "batch": batch(run, out / "batch"),
    }
    return {name: path.resolve().as_uri() for name, path in paths.items()}


def quantisation(path: Path) -> Path:
    """Of a network that nobody has: long names, layers that are kept, and one without a range."""
    layers = [
        QuantisedLayer(
            node=f"/encoder/layer{number}/conv/Conv", module=f"encoder.layer{number}.conv", operator="Conv",
            input_range=(-number / 3, 2.0 * number) if number else None, noise_db=60.0 - 3 * number,
            fp8_noise_db=40.0 - 2 * number, kept_for_cpus="23.4 dB alone" if number > 11 else "",
            kept_for_engines="depthwise" if number > 11 else "", kept_for_fp8="named" if number > 11 else "",
            quiet_channels=number % 3,
        )
        for number in range(14)
    ]  # fmt: skip
    tried = TriedGraph(kept=2, agreement=0.9991, worst_image=0.987, miou_drop_upper=0.012, failed=("miou_drop",))
    graph = QuantisedGraph(kept=2, noise_db=31.2, trials=(tried, tried.model_copy(update={"failed": ()})))
    graphs = dict.fromkeys((INT8_CPU_GRAPH, INT8_GRAPH, FP8_GRAPH), graph)
    made = Quantisation(
        way="ptq",
        calibration="minmax",
        basis="",
        graphs=graphs,
        layers=tuple(layers),
        frames=CalibrationFrames(split="train", calibrated=48, tried=24),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(made))
    return path


def batch(run: Path, out: Path) -> Path:
    """The summary of a batch of some images, of which one is none."""
    for number in range(3):
        write_image(out / f"in/a long name of a photograph, number {number}.png", make_frame(160, 240, number)[0])
    (out / "in/broken.png").write_bytes(b"no picture")
    for words in (["batch", run, out / "in", "-o", out / "out"], ["batch", "summary", out / "out"]):
        subprocess.run([*SEGPIPE, *map(str, words)], check=False, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    (page,) = (out / "out").glob("*/summary.html")
    return page


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
