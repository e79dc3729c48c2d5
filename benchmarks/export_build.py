"""Export and build, measured: time, size and memory, FP16's error, and TensorRT for RTX's engines, network by network.

    python -m benchmarks.export_build                  # all; writes results/export_build.md and .json
    python -m benchmarks.export_build --only DDRNet    # writes nothing

One process a network, so that peak memory is its own. Weights are random: times, sizes and shares do not depend on
training; how near FP16 comes on a trained network is in results/fp16_ways.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segpipe.installed import versions
from segpipe.processor import processor

RESULTS = Path(__file__).parent / "results"
SUBJECT_NAMES = (
    "LR-ASPP", "LR-ASPP, open sizes", "U-Net-R18", "SegFormer-B0", "DeepLabV3-R50", "DDRNet-23-slim", "BiSeNetV2",
    "CamVid on a CPU", "CamVid on a GPU",
)  # fmt: skip
_PACKAGES = ("torch", "torchvision", "segmentation_models_pytorch", "onnx", "onnxruntime-gpu", "tensorrt_rtx")
_MB = 1e6


def main() -> None:
    """Measure, print, and write when all were measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose name contains this; writes nothing")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options.alone)))
        return
    results: dict[str, Any] = {"machine": machine(), "networks": {}}
    for name in SUBJECT_NAMES:
        if options.only in name:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.export_build", "--alone", name]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            results["networks"][name] = json.loads(output.splitlines()[-1])
            print(_row(name, results["networks"][name]), flush=True)
    if not options.only:
        (RESULTS / "export_build.json").write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "export_build.md").write_text(as_markdown(results))


def measure(name: str) -> dict[str, Any]:
    """One network, from PyTorch to engines."""
    import onnx

    from benchmarks.subjects import SUBJECTS
    from stages.build.precision import island_nodes
    from stages.config.root import BuildConfig, ExportConfig
    from stages.export.files import export_files
    from stages.export.source import ExportSource
    from stages.export.trace import trace
    from stages.graphs.halving import to_half
    from stages.graphs.reading import to_bytes

    network, contract = SUBJECTS[name].make()
    image = np.random.default_rng(0).standard_normal((1, 3, *SUBJECTS[name].size), np.float32)
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[what] = round(time.perf_counter() - start, 2)
        return result

    graph = timed("trace", lambda: trace(network, contract, ExportConfig().opset))
    source = ExportSource(graph, lambda tensor: _answer(network, tensor), contract, [], {})
    exported = timed("checks_and_fp16", lambda: export_files(source, ExportConfig(), BuildConfig(), lambda: [image]))
    files, islands = exported.files, island_nodes(exported.files["precision.json"])
    full = onnx.load_model_from_string(files["model.onnx"])
    _forget_peak()
    before = _memory("VmRSS")
    timed("fp16_conversion", lambda: to_bytes(to_half(full, islands)))
    grown = max(0, _memory("VmHWM") - before)
    return {
        "model": SUBJECTS[name].model,
        "size": SUBJECTS[name].size,
        "seconds": seconds,
        "fp32_bytes": len(files["model.onnx"]),
        "fp16_conversion_memory_ratio": round(grown / len(files["model.onnx"]), 2),
        **exported.figures,
        "engines": {
            "fp32": _engine(files["model.onnx"], name, "fp32", frozenset()),
            "fp16": _engine(files["model.fp16.onnx"], name, "fp16", islands),
        },
    }


def _engine(data: bytes, name: str, kind: str, islands: frozenset[str]) -> dict[str, Any]:
    from benchmarks.subjects import SUBJECTS
    from segpipe.runtime.trt.building import build_engine
    from stages.build.engines import make_request
    from stages.build.precision import judge_precision
    from stages.config.root import BuildConfig, Profile
    from stages.graphs.input_shapes import shape_ranges

    (_, contract), (height, width) = SUBJECTS[name].make(), SUBJECTS[name].size
    sides: dict[str, Any] = {"height": (height,) * 3, "width": (width,) * 3} if SUBJECTS[name].open_sizes else {}
    config = BuildConfig(precision=kind, profiles=(Profile(**sides),))  # type: ignore[arg-type]
    request = make_request("tensorrt-rtx", data, contract.input_name, shape_ranges(contract, config), config)
    start = time.perf_counter()
    engine = build_engine("tensorrt-rtx", request)
    seconds = round(time.perf_counter() - start, 2)
    return {"seconds": seconds, "bytes": len(engine.plan), **judge_precision(engine, config, islands)}


def as_markdown(results: dict[str, Any]) -> str:
    """The table for people."""
    told = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    lines = [
        "# Export and build",
        "",
        f"`python -m benchmarks.export_build` on {told}. No GPU: engines are built, not run.",
        "",
        "Random weights, dynamic batch, the size given (open sizes: any height and width, engines for that one). "
        "*export*: tracing, then all checks, the range probe on one frame and both files. *FP16*: converting the "
        "finished graph once more, and the memory it took as a multiple of model.onnx. *error*: relative L2 of the "
        "FP16 scores, every result rounded. *engine*: TensorRT for RTX for four compute capabilities, batch 1 to 8; "
        "*share*: of its convolutions and matrix products in FP16, islands apart.",
        "",
        "| network | size | export, s | FP16, s | FP16, memory | model.onnx, MB | FP16 file | error | islands "
        "| FP32 engine | FP16 engine | share |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(name, network) for name, network in results["networks"].items()),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, found: dict[str, Any]) -> str:
    seconds, engines = found["seconds"], found["engines"]
    built = [f"{engines[kind]['seconds']} s, {engines[kind]['bytes'] / _MB:.1f} MB" for kind in ("fp32", "fp16")]
    cells = [
        name, "x".join(map(str, found["size"])),
        f"{seconds['trace']:.1f} + {seconds['checks_and_fp16']:.1f}", f"{seconds['fp16_conversion']}",
        f"{found['fp16_conversion_memory_ratio']}x", f"{found['fp32_bytes'] / _MB:.1f}",
        f"{found['fp16_size_ratio']}x", f"{found['fp16_relative_error']:.1e}", f"{found['fp32_islands']}",
        *built, f"{engines['fp16']['fp16_share']:.0%}",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def machine() -> dict[str, Any]:
    """What the figures came from."""
    found = {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    return found | versions(*_PACKAGES)


def _answer(network: Any, image: Any) -> Any:
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(image)).numpy()


def _forget_peak() -> None:
    """Linux: the high-water mark starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
