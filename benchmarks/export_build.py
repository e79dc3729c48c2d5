"""Export and build, measured: times, sizes, memory, FP16 error and share, network by network.

    python benchmarks/export_build.py lraspp lraspp-open deeplabv3-r50 unet-r18 segformer-b0
    python benchmarks/export_build.py --run runs/demo     # a trained network: agreement of FP16 with FP32

Weights are random, with batch-norm statistics from noise: times, sizes and shares do not depend on training, agreement
does, so that is taken from --run. U-Net and SegFormer need segmentation_models_pytorch. One process a network, so that
peak memory is its own. Writes benchmarks/results/export_build.json.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results" / "export_build.json"
NETWORKS = ("lraspp", "lraspp-open", "deeplabv3-r50", "unet-r18", "segformer-b0")
_CLASSES, _SIZE = 19, (256, 512)


def main() -> None:
    """Measure what is named and merge it into the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="which networks")
    parser.add_argument("--run", type=Path, help="a finished run directory of a trained network")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure_trained(options.run) if options.run else measure(options.networks[0])))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["machine"] = _machine()
    wanted = {name: [name] for name in options.networks}
    if options.run:
        wanted[f"run {options.run.name}"] = ["--run", str(options.run)]
    for name, arguments in wanted.items():
        command = [sys.executable, "-W", "ignore", __file__, "--alone", *arguments]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[name] = json.loads(output.splitlines()[-1])
        print(name, json.dumps(results[name], indent=1))
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")


def measure(name: str) -> dict[str, Any]:
    """One network with random weights, from PyTorch to engines."""
    from stages.export.clean import clean
    from stages.export.equality import difference, session
    from stages.export.trace import trace
    from stages.graphs.halving import to_half
    from stages.graphs.naming import name_nodes
    from stages.graphs.ranges import measure as measure_ranges
    from stages.graphs.reading import check, to_bytes
    from stages.graphs.rounding import rounded

    network, contract = _network(name)
    image = np.random.default_rng(0).standard_normal((1, 3, *_SIZE), np.float32)
    expected = _answer(network, image)
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[what] = round(time.perf_counter() - start, 2)
        return result

    model = timed("export", lambda: trace(network, contract, 18))
    name_nodes(clean(model))
    timed("check", lambda: check(model, name))
    full_bytes = to_bytes(model)
    timed("range_probe_per_image", lambda: measure_ranges(model, [image], contract.input_name))
    _forget_peak()
    before = _memory("VmRSS")
    half_bytes = timed("fp16_conversion", lambda: to_bytes(to_half(model, set())))
    grown = _memory("VmHWM") - before
    full = session(model, contract)(image)
    half = session(rounded(to_half(model, set())), contract)(image)
    return {
        "seconds": seconds,
        "fp32_bytes": len(full_bytes),
        "fp16_size_ratio": round(len(half_bytes) / len(full_bytes), 4),
        "fp16_conversion_memory_ratio": round(grown / len(full_bytes), 2),
        "relative_error_to_pytorch": difference(expected, full, labels=False),
        "fp16_relative_error": difference(full, half, labels=False),
        "half_module": _half_module(network, contract, image, full),
        "engines": {kind: _engine(data, contract, kind) for kind, data in (("fp32", full_bytes), ("fp16", half_bytes))},
    }


def measure_trained(run: Path) -> dict[str, Any]:
    """FP16 made from the graph (batch norms folded in FP32 first) beside the module in half precision."""
    import onnx
    import torch

    from segpipe.contract import Contract
    from segpipe.rundir import RunDirectory
    from segpipe.runtime.preprocess import preprocess
    from stages import checkpoint
    from stages.config_file import load_config
    from stages.data import open_split
    from stages.export.equality import difference, session
    from stages.graphs.halving import to_half
    from stages.graphs.rounding import rounded

    rundir = RunDirectory(run)
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    contract: Contract = trained.contract
    full = onnx.load_model_from_string(rundir.artifact_bytes("export", "model.onnx"))
    split = open_split(load_config(run), run, "val")
    frames = [split.sample(index)[0] for index in range(min(20, len(split)))]
    tensors = [preprocess(frame, contract, contract.place(*frame.shape[:2]))[None] for frame in frames]
    expected = [_answer(trained.network, tensor) for tensor in tensors]
    graph = session(rounded(to_half(full, set())), contract)
    fp16_file = session(to_half(full, set()), contract)
    module = trained.network.half()

    def of_module(tensor: Any) -> Any:
        with torch.inference_mode():
            return module(torch.from_numpy(tensor).half()).float().numpy()

    ways = {
        "graph pass, batch norms folded in FP32, every result rounded": graph,
        "module in half precision by PyTorch, batch norms unfolded": of_module,
        "the same FP16 file by ONNX Runtime on the CPU, which hides rounding": fp16_file,
    }
    found = {}
    for way, run_way in ways.items():
        pairs = [(a, run_way(tensor)) for a, tensor in zip(expected, tensors, strict=True)]
        found[way] = {
            "relative_error": max(difference(a, b, labels=False) for a, b in pairs),
            "argmax_agreement": float(np.mean([(a.argmax(1) == b.argmax(1)).mean() for a, b in pairs])),
        }
    return {"frames": len(frames), "ways": found}


def _network(name: str) -> tuple[Any, Any]:
    """The network in evaluation mode, and the contract it is exported with."""
    import torch
    from torch import nn
    from torchvision.models import segmentation

    from segpipe.contract import Contract

    class Scores(nn.Module):
        """torchvision's networks answer with a dict."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer = self.network(image)
            scores: torch.Tensor = answer["out"] if isinstance(answer, dict) else answer
            return scores

    torch.manual_seed(0)
    bare: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": _CLASSES}
    if name.startswith("lraspp"):
        network = segmentation.lraspp_mobilenet_v3_large(**bare)
    elif name == "deeplabv3-r50":
        network = segmentation.deeplabv3_resnet50(**bare)
    else:
        import segmentation_models_pytorch as smp

        kinds = {"unet-r18": (smp.Unet, "resnet18"), "segformer-b0": (smp.Segformer, "mit_b0")}
        factory, encoder = kinds[name]
        network = factory(encoder, encoder_weights=None, classes=_CLASSES)
    scores = Scores(network)
    _settle(scores)
    classes = tuple(f"class {n}" for n in range(_CLASSES))
    if name.endswith("-open"):
        return scores, Contract(classes=classes, fit="pad", size_multiple=32)
    return scores, Contract(classes=classes, network_size=_SIZE)


def _settle(network: Any) -> None:
    """Batch-norm statistics from noise: with those of a fresh network activations fade to nothing."""
    import torch
    from torch import nn

    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        network(torch.randn(4, 3, 128, 256))
    network.eval()


def _half_module(network: Any, contract: Any, image: Any, expected: Any) -> dict[str, float]:
    """The other way: export the module a second time, in half precision."""
    import torch

    from stages.export.equality import difference
    from stages.export.trace import _quiet_exporter

    half = network.half()
    start = time.perf_counter()
    with _quiet_exporter():
        program = torch.onnx.export(
            half, (torch.zeros(2, 3, *_SIZE).half(),), dynamo=True, opset_version=18, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
        )  # fmt: skip
    seconds = round(time.perf_counter() - start, 2)
    assert program is not None
    with torch.inference_mode():
        found = half(torch.from_numpy(image).half()).float().numpy()
    network.float()
    return {"export_seconds": seconds, "relative_error": difference(expected, found, labels=False)}


def _engine(data: bytes, contract: Any, kind: str) -> dict[str, Any]:
    from segpipe.runtime.trt.building import build_engine
    from stages.build.engines import make_request
    from stages.build.precision import judge_precision
    from stages.config import BuildConfig, Profile
    from stages.input_shapes import shape_ranges

    sides = {"height": (_SIZE[0],) * 3, "width": (_SIZE[1],) * 3} if contract.network_size is None else {}
    config = BuildConfig(precision=kind, profiles=(Profile(**sides),))  # type: ignore[arg-type]
    request = make_request("tensorrt-rtx", data, contract.input_name, shape_ranges(contract, config), config)
    start = time.perf_counter()
    engine = build_engine("tensorrt-rtx", request)
    seconds = round(time.perf_counter() - start, 2)
    share = judge_precision(engine, config, frozenset())
    return {"seconds": seconds, "bytes": len(engine.plan), **share}


def _answer(network: Any, image: Any) -> Any:
    import torch

    with torch.inference_mode():
        return network(torch.from_numpy(image)).numpy()


def _forget_peak() -> None:
    """Linux: the high-water mark starts anew."""
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _machine() -> dict[str, Any]:
    packages = ("torch", "torchvision", "onnx", "onnxruntime-gpu", "tensorrt_rtx")
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "processor": model.partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "note": "shared with other work while measuring: seconds are upper bounds",
    }


if __name__ == "__main__":
    main()
