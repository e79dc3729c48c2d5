"""Stage `benchmark`: how long a frame takes here, beside what a user would have otherwise."""

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segpipe.rundir import RunDirectory
from stages.config import Config
from stages.environment import versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stages.timing import Contestant

STAGE = "benchmark"
VERSION = 1
OURS = "segpipe onnxruntime-cpu"
NETWORK = "onnxruntime-cpu, network alone"
EAGER = "PyTorch eager, end to end"


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Measure this run's deployed network, unless the same one was measured on this machine before."""
    artifacts = [
        rundir.artifact("train", "model.safetensors"),
        rundir.artifact("export", "model.onnx"),
        rundir.artifact("validate", "verdicts.json"),
    ]
    params = {"stage_version": VERSION, "machine": machine(), **config.sections("benchmark")}
    with rundir.step(STAGE, artifacts, params) as step:
        if step.stale:
            report, samples = measure(rundir, config, base)
            step.path("report.json").write_text(json.dumps(report, indent=2))
            step.path("samples.csv").write_text(_table(samples))
            step.contract_sha256 = rundir.manifest.contract_sha256
            step.figures = {"p50_ms": report["latency"][OURS]["p50_ms"], "faster_than_eager": report["ratio"]["eager"]}
            step.environment |= versions("torch", "onnxruntime-gpu", "onnxruntime", "numpy", "opencv-python-headless")
    return rundir.artifact(STAGE, "report.json")


def machine() -> dict[str, Any]:
    """What the figures belong to."""
    return {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()}


def measure(rundir: RunDirectory, config: Config, base: Path) -> "tuple[dict[str, Any], dict[str, NDArray[Any]]]":
    """Interleaved rounds over real frames; the masks of all contestants are compared before."""
    import numpy as np
    import torch

    from segpipe.runtime.backends.onnxruntime import open as open_onnxruntime
    from segpipe.runtime.preprocess import preprocess
    from segpipe.runtime.request import OpenOptions, Outputs
    from stages import checkpoint, reference
    from stages.data import open_split
    from stages.timing import interleave, latency, ratio_of_medians

    torch.set_num_threads(config.benchmark.threads or os.cpu_count() or 1)
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    contract = trained.contract
    split = open_split(config, base, "val")
    frames = [split.sample(index)[0] for index in range(min(config.benchmark.frames, len(split)))]
    options = OpenOptions(threads=config.benchmark.threads)
    backend = open_onnxruntime(rundir.artifact_bytes("export", "model.onnx"), contract, options)
    tensors = [preprocess(frame, contract, contract.place(*frame.shape[:2]))[np.newaxis] for frame in frames]
    contestants: dict[str, Contestant] = {
        OURS: lambda n: backend.infer([frames[n % len(frames)]], Outputs()),
        NETWORK: lambda n: backend.scores(tensors[n % len(frames)]),
        EAGER: lambda n: reference.segment(trained.network, frames[n % len(frames)], contract),
    }
    agreement = [
        float((backend.infer([f], Outputs())[0].mask == reference.segment(trained.network, f, contract)).mean())
        for f in frames
    ]
    samples = interleave(contestants, config.benchmark.rounds, config.benchmark.seconds)
    report = {
        "frame": list(frames[0].shape),
        "network_input": list(tensors[0].shape),
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "agreement_with_eager": round(sum(agreement) / len(agreement), 6),
        "latency": {name: latency(values).as_dict() for name, values in samples.items()},
        "ratio": {
            "eager": ratio_of_medians(samples[EAGER], samples[OURS]),
            "network_alone": ratio_of_medians(samples[OURS], samples[NETWORK]),
        },
    }
    backend.close()
    return report, samples


def _table(samples: "dict[str, NDArray[Any]]") -> str:
    """Every sample, in nanoseconds, a column a contestant."""
    rows = [",".join(f'"{name}"' for name in samples)]
    rows += [",".join(map(str, row)) for row in zip(*samples.values(), strict=True)]
    return "\n".join(rows) + "\n"


def _processor() -> str:
    """The processor's own name for itself."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
