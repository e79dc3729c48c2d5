"""The whole demo on the GPU: engines built for it, judged by the release gate, and chosen by the runtime."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import build_settings, gpu_backends, judged
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages.config.file import FILE_NAME, load_config
from stages.config.root import Config
from stages.config.starter import write_starter
from stages.data import open_split
from stages.demo import run_demo
from stages.pipeline import Selection, run_stages

_FRAMES = 20


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Build, verdicts, pixels that differ from ONNX Runtime on the CPU, what `auto` picks, and the demo's summary."""
    path, overrides = folders.work / "demo", build_settings(folders)
    if not (path / FILE_NAME).exists():
        write_starter(path, "demo")
    config = load_config(path, overrides)
    figures: dict[str, Any] = {"build": run_stages(path, config, path, Selection(last="build")).record("build").figures}
    yield figures
    passed, figures["gate"] = judged(path, config)
    yield figures
    figures["differing_pixels"] = _differing(path, config)
    yield figures
    assert passed, "the release gate failed"
    figures["summary"] = run_demo(path, overrides)
    shutil.copy(path / "pictures" / "sheet.png", folders.out / "demo.png")
    shutil.copy(RunDirectory(path).artifact("benchmark", "report.json"), folders.out / "demo-report.json")
    with Segmenter.open(path) as chosen:
        figures["chosen"] = chosen.describe()
    yield figures
    assert figures["chosen"]["backend"] != "onnxruntime-cpu", "the runtime fell back to the CPU"


def _differing(path: Path, config: Config) -> dict[str, float]:
    """Share of pixels on test frames that each GPU backend gives another class than the CPU."""
    split = open_split(config, path, "test")
    frames = [split.sample(index)[0] for index in range(_FRAMES)]
    with Segmenter.open(path, "onnxruntime-cpu", allow_unvalidated=True) as reference:
        wanted = reference(frames)
    differing = {}
    for backend in gpu_backends(path):
        with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
            pairs = zip(segmenter(frames), wanted, strict=True)
            differing[backend] = float(np.mean([(mask != other).mean() for mask, other in pairs]))
    return differing
