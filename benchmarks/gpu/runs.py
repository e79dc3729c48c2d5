"""What the suite's steps share: the flavours that run here, and the backends that open a run."""

from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.results import load
from segpipe.errors import GateFailedError, SegpipeError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime import trt
from segpipe.runtime.segmenter import Segmenter
from segpipe.verdict import stored_verdicts
from stages.config.root import Config
from stages.pipeline import Selection, run_stages

FLAVOURS: tuple[trt.Flavour, ...] = ("tensorrt", "tensorrt-rtx")
ORT = "onnxruntime-cuda"
SAME = 0.999  # share of pixels that two ways of computing one network agree on


def usable_flavours(folders: Folders) -> list[trt.Flavour]:
    """What the step `flavours` saw running here; where it was not run, what is installed."""
    result = load(folders.out)
    step = result.steps.get("flavours") if result else None
    if step is None or not step.figures:
        return [flavour for flavour in FLAVOURS if trt.is_installed(flavour)]
    return [flavour for flavour in FLAVOURS if step.figures.get(flavour, {}).get("agreement", 0.0) >= SAME]


def build_settings(folders: Folders) -> list[str]:
    """`--set` arguments that build for every flavour that runs here, and for this very GPU."""
    return [f"build.targets={usable_flavours(folders)}", "build.compute_capabilities=[]"]


def gpu_backends(run: Path) -> list[str]:
    """The GPU backends that open this run, best first; unjudged ones too. The log says why others do not."""
    found: list[str] = []
    for name in (*FLAVOURS, ORT):
        try:
            Segmenter.open(run, name, allow_unvalidated=True).close()
        except SegpipeError as error:
            print(f"{name} does not open {run}: {error}")
        else:
            found.append(name)
    assert found, "no GPU backend opens this run; the log says why"
    return found


def finished_demo(folders: Folders) -> Path:
    """The demo's run directory."""
    path = folders.work / "demo"
    assert path.is_dir(), "the step `demo` must run first"
    return path


def judged(path: Path, config: Config) -> tuple[bool, dict[str, Any]]:
    """Whether the release gate passed, its figures, and every verdict with its reasons."""
    try:
        run_stages(path, config, path, Selection("validate", "validate"))
        passed = True
    except GateFailedError:
        passed = False
    run = RunDirectory(path)
    verdicts = [
        f"{v.artifact} on {v.backend} ({v.device}): {v.status} {'; '.join(v.reasons)}" for v in stored_verdicts(run)
    ]
    return passed, {**run.record("validate").figures, "verdicts": verdicts}
