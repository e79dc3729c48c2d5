"""The whole demo on the GPU: engines built for it, judged by the release gate, and chosen by the runtime."""

import shutil
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import engine_backends, installed_targets
from segpipe.rundir import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import stored_verdicts
from stages.config_file import load_config
from stages.data import open_split
from stages.demo import run_demo

_FRAMES = 20


def run(folders: Folders) -> dict[str, Any]:
    """Summary, verdicts, what `auto` picks, and how many pixels differ from ONNX Runtime on the CPU."""
    path = folders.work / "demo"
    overrides = installed_targets()
    summary = run_demo(path, overrides)
    shutil.copy(path / "pictures" / "sheet.png", folders.out / "demo.png")
    split = open_split(load_config(path, overrides), path, "test")
    frames = [split.sample(index)[0] for index in range(_FRAMES)]
    with Segmenter.open(path, "onnxruntime-cpu") as reference:
        wanted = reference(frames)
    differing = {}
    for backend in engine_backends(path):
        with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
            masks = segmenter(frames)
        pairs = zip(masks, wanted, strict=True)
        differing[backend] = float(np.mean([(mask != other).mean() for mask, other in pairs]))
    with Segmenter.open(path) as chosen:
        described = chosen.describe()
    verdicts = [f"{v.artifact} on {v.backend} ({v.device}): {v.status}" for v in stored_verdicts(RunDirectory(path))]
    assert described["backend"] != "onnxruntime-cpu", f"the runtime fell back to the CPU: {verdicts}"
    return {"summary": summary, "chosen": described, "differing_pixels": differing, "verdicts": verdicts}
