"""Five networks at two sizes and batches, FP32 and FP16: ours end to end against PyTorch and ONNX Runtime CUDA."""

import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import installed_targets
from segpipe.errors import SegpipeError
from segpipe.rundir import RunDirectory
from stages.benchmark_report import Report
from stages.config_file import parse_config
from stages.pipeline import Selection, run_stages

_NETWORKS = (
    "torchvision/lraspp_mobilenet_v3_large", "ddrnet23_slim", "smp/unet/resnet18", "smp/segformer/mit_b0",
    "torchvision/deeplabv3_resnet50",
)  # fmt: skip
_SIZES = ((512, 1024), (1024, 2048))
_BATCHES = (1, 8)
_LIMIT_S = 460.0


def run(folders: Folders) -> dict[str, Any]:
    """Medians of every contestant; what does not fit into the time is named."""
    found: dict[str, Any] = {}
    end = time.monotonic() + _LIMIT_S
    for size in _SIZES:
        for network in _NETWORKS:
            for precision in ("fp16", "fp32"):
                name = f"{network} {size[0]}x{size[1]} {precision}"
                late = time.monotonic() > end
                found[name] = "no time" if late else _measured(folders.work, (network, size, precision))
    assert any(isinstance(entry, dict) and "error" not in entry for entry in found.values()), "nothing was measured"
    return found


def _measured(work: Path, what: tuple[str, tuple[int, int], str]) -> dict[str, Any]:
    """Random weights: their speed is that of trained ones. The gate is not asked."""
    network, (height, width), precision = what
    path = work / "networks" / f"{network.replace('/', '-')}-{height}-{precision}"
    overrides = dict(setting.split("=", 1) for setting in installed_targets())
    content = {
        "data": {"kind": "shapes", "height": height, "width": width, "train": 2, "val": 4, "test": 2},
        "input": {"height": height, "width": width},
        "model": {"name": network},
        "train": {"epochs": 1, "batch_size": 2, "workers": 0},
        "build": {
            "targets": [name for name in ("tensorrt", "tensorrt-rtx") if f"'{name}'" in overrides["build.targets"]],
            "compute_capabilities": [],
            "precision": precision,
            "max_batch": max(_BATCHES),
        },
        "benchmark": {"rounds": 40, "seconds": 20, "frames": 4},
    }
    try:
        config = parse_config(content, network)
        rundir = run_stages(path, config, path, Selection("train", "build"))
        run_stages(path, config, path, Selection("benchmark", "benchmark"))
    except SegpipeError as error:
        return {"error": str(error)}
    report = Report.model_validate_json(RunDirectory(rundir.path).artifact_bytes("benchmark", "report.json"))
    return {entry.name: entry.latency.p50_ms for entry in report.contestants if entry.latency}
