"""Ways from FP32 to FP16 compared: ours, onnxconverter-common, ModelOpt AutoCast, the module in half precision.

    pip install --no-deps onnxconverter-common nvidia-modelopt onnx-graphsurgeon nvidia-ml-py onnxslim lief
    python -m benchmarks.fp16_ways runs/demo LR-ASPP U-Net-R18 SegFormer-B0     # writes results/fp16_ways.md

A finished run is compared on its validation frames, a name of benchmarks/subjects.py (random weights) on noise. The
first line installs the contestants, which segpipe does not need; without them their rows are missing.
"""

import argparse
import shlex
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto
from torch import nn

from benchmarks.export_build import RESULTS
from benchmarks.subjects import SUBJECTS
from segpipe.contract.schema import Contract
from segpipe.installed import versions
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.trt.building import build_engine
from stages.build.engines import make_request
from stages.build.precision import judge_precision
from stages.config.file import load_config
from stages.config.root import BuildConfig, ExportConfig, Profile
from stages.data import open_split
from stages.export.clean import clean
from stages.export.equality import Network, difference, session
from stages.export.files import decided
from stages.export.trace import trace
from stages.graphs.halving import to_half
from stages.graphs.input_shapes import shape_ranges
from stages.graphs.rounding import rounded
from stages.graphs.types import element_types
from stages.models import checkpoint

_FRAMES = 20
_PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime-gpu",
    "onnxruntime",
    "onnxconverter-common",
    "nvidia-modelopt",
    "tensorrt_rtx",
)


@dataclass(frozen=True)
class Case:
    """A network in both forms, and frames for it."""

    name: str
    network: nn.Module
    graph: onnx.ModelProto
    contract: Contract
    tensors: Sequence[NDArray[Any]]


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", help="run directories, or names of benchmarks/subjects.py")
    names = parser.parse_args().cases
    rows = [row for name in names for row in compare(_subject(name) if name in SUBJECTS else _run(Path(name)))]
    told = ", ".join(f"{key} {value}" for key, value in versions(*_PACKAGES).items())
    shown = [name if name in SUBJECTS else f"runs/{Path(name).name}" for name in names]
    text = "\n".join([
        "# Ways from FP32 to FP16",
        "",
        f"`python -m benchmarks.fp16_ways {shlex.join(shown)}` with {told}.",
        "",
        "*error*: relative L2 of the scores against the FP32 graph, the worst frame, every result rounded to FP16 "
        "(`stages/graphs/rounding.py`; the module: PyTorch's own half precision). *agreement*: of the argmax, at the "
        "network's stride; of random weights it says little. *casts*: nodes of that kind. *FP32 nodes*: others that "
        "give FP32. *share*: of the convolutions and matrix products, as TensorRT for RTX parsed them, in FP16. "
        "*file*: of the size of model.onnx. No islands are asked for.",
        "",
        "| network | way | error | agreement | casts | FP32 nodes | share | file |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ])  # fmt: skip
    print(text)
    (RESULTS / "fp16_ways.md").write_text(text + "\n")


def compare(case: Case) -> Iterator[str]:
    """A row a way."""
    reference = session(case.graph, case.contract)
    ways: dict[str, Callable[[], onnx.ModelProto]] = {"graph pass (segpipe)": lambda: to_half(case.graph, set())}
    if find_spec("onnxconverter_common"):
        ways["onnxconverter-common"] = lambda: _onnxconverter(case.graph)
    if find_spec("modelopt"):
        ways["ModelOpt AutoCast"] = lambda: _autocast(case)
    for way, convert in ways.items():
        try:
            half = convert()
            figures = [*_error(reference, session(rounded(half), case.contract), case), *_structure(case, half)]
        except Exception as error:  # noqa: BLE001 - what another tool does to a graph is the answer
            figures = [f"{type(error).__name__}: {' '.join(str(error).split())[:120]}", *[""] * 5]
        yield f"| {case.name} | {way} | {' | '.join(figures)} |"
    module = _error(reference, _half_module(case.network), case)
    yield f"| {case.name} | module in half precision | {' | '.join(module)} |  |  |  |  |"


def _run(path: Path) -> Case:
    rundir = RunDirectory(path)
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    split = open_split(load_config(path), path, "val")
    contract = run_contract(rundir)
    frames = [split.sample(index)[0] for index in islice(range(len(split)), _FRAMES)]
    tensors = [preprocess(frame, contract, contract.place(*frame.shape[:2]))[None] for frame in frames]
    graph = onnx.load_model_from_string(rundir.artifact_bytes("export", "model.onnx"))
    return Case(path.name, trained.network.eval(), graph, contract, tensors)


def _subject(name: str) -> Case:
    network, contract = SUBJECTS[name].make()
    tensors = [np.random.default_rng(0).standard_normal((1, 3, *SUBJECTS[name].size), np.float32)]
    return Case(name, network, clean(trace(network, contract, ExportConfig().opset)), contract, tensors)


def _onnxconverter(graph: onnx.ModelProto) -> onnx.ModelProto:
    from onnxconverter_common import float16  # type: ignore[import-not-found,unused-ignore]

    return float16.convert_float_to_float16(_copy(graph), keep_io_types=True)


def _autocast(case: Case) -> onnx.ModelProto:
    from modelopt.onnx.autocast import convert_to_mixed_precision  # type: ignore[import-not-found,unused-ignore]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(case.graph, path)
        frame: dict[str, Any] = {case.contract.input_name: case.tensors[0]}
        np.savez(Path(folder) / "frame.npz", **frame)
        return convert_to_mixed_precision(
            str(path), low_precision_type="fp16", keep_io_types=True, calibration_data=str(Path(folder) / "frame.npz")
        )


def _half_module(network: nn.Module) -> Network:
    half = network.half()

    def run(tensor: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            scores: NDArray[Any] = half(torch.from_numpy(tensor).half()).float().numpy()
        return scores

    return run


def _error(reference: Network, candidate: Network, case: Case) -> list[str]:
    pairs = [(reference(tensor), candidate(tensor)) for tensor in case.tensors]
    error = max(difference(a, b, labels=False) for a, b in pairs)
    same = np.mean([(decided(a, case.contract) == decided(b, case.contract)).mean() for a, b in pairs])
    return [f"{error:.1e}", f"{same:.4%}"]


def _structure(case: Case, half: onnx.ModelProto) -> list[str]:
    types = element_types(half)
    casts = sum(node.op_type == "Cast" for node in half.graph.node)
    full = [n for n in half.graph.node if n.op_type != "Cast" and types.get(n.output[0]) == TensorProto.FLOAT]
    size = half.ByteSize() / case.graph.ByteSize()
    return [str(casts), str(len(full)), _share(case, half), f"{size:.2f}x"]


def _share(case: Case, half: onnx.ModelProto) -> str:
    config = BuildConfig(profiles=(Profile(),), min_fp16_share=0.0)
    shapes = shape_ranges(case.contract, config)
    data = half.SerializeToString()
    engine = build_engine("tensorrt-rtx", make_request("tensorrt-rtx", data, case.contract.input_name, shapes, config))
    return f"{judge_precision(engine, config, frozenset())['fp16_share']:.0%}"


def _copy(graph: onnx.ModelProto) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(graph)
    return copied


if __name__ == "__main__":
    main()
