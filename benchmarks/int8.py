"""INT8 beside FP32 of the same library: the network alone, one thread, processor time, turn by turn in one process.

    python -m benchmarks.int8 [--networks NAME ...] [--rounds 20] [RUN ...]

Adds to results/int8.md. Networks by name have random weights: they tell speed and size. A RUN that was exported with
compress.int8 and validated tells speed, and what the gate found of its accuracy.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.subjects import SUBJECTS, Subject
from segpipe.artifacts import EXPORT, FP32_GRAPH, INT8_CPU_GRAPH
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.processor import instruction_set, processor
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.opening import run_contract
from segpipe.runtime.preprocess import tensor_shape
from segpipe.runtime.request import OpenOptions
from segpipe.verdict import STAGE
from stages.export.clean import clean
from stages.export.trace import trace
from stages.graphs.calibrating import spans
from stages.graphs.int8_layers import layers_of
from stages.graphs.naming import name_nodes
from stages.graphs.quantising import quantised
from stages.graphs.quantising_cpu import quantised_for_cpu
from stages.graphs.reading import to_bytes
from stages.results.gate import read_report

RESULTS = Path(__file__).parent / "results" / "int8.md"
HEAD = """# INT8 on CPUs

`python -m benchmarks.int8`: milliseconds of processor time of the network alone on one thread (quartiles), in turns.
*u8* is model.int8.cpu.onnx, *s8* the graph for engines with FP32 between its pairs; in brackets how many times as fast
as FP32 by the same library. Networks by name have random weights: they tell speed and size.

| network | size | machine | ORT FP32 | ORT u8 | OpenVINO FP32 | OpenVINO u8 | OpenVINO s8 | file | mIoU drop (95 %) |
|---|---|---|---:|---:|---:|---:|---:|---:|---|
"""
NETWORKS: Mapping[str, Subject] = {
    "demo (skipnet 16)": Subject("skipnet", (128, 192), 5, options={"width": 16}),
    "U-Net-R18": replace(SUBJECTS["U-Net-R18"], size=(384, 480), classes=11),
    "MobileNetV2, CamVid": SUBJECTS["CamVid on a CPU"],
}
_WAYS = ("onnxruntime-cpu", "onnxruntime-cpu-int8", "openvino", "openvino-int8", "openvino-int8 s8")
_FRAMES = 4

Call = Callable[[NDArray[np.float32]], object]


@dataclass(frozen=True)
class Case:
    """Graphs under a contract, by what runs them, and a tensor."""

    name: str
    graphs: dict[str, bytes]
    contract: Contract
    tensor: NDArray[np.float32]
    drop: str = "-"


def by_name(name: str) -> Case:
    """A network with random weights, calibrated on noise."""
    network, contract = NETWORKS[name].make()
    full = clean(trace(network, contract, 18))
    onnx.helper.set_model_props(full, {METADATA_KEY: contract.to_json()})
    name_nodes(full)
    height, width = contract.network_size or (256, 512)
    shape = tensor_shape(contract, contract.place(height, width))
    frames = [np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32) for seed in range(_FRAMES)]
    ranges = spans(full, frames, contract.input_name, "minmax")
    narrow = to_bytes(quantised_for_cpu(full, ranges, ()))
    chosen = [layer.name for layer in layers_of(full) if not layer.depthwise]
    graphs = dict.fromkeys(_WAYS, to_bytes(full)) | {way: narrow for way in _WAYS if way.endswith("int8")}
    graphs["openvino-int8 s8"] = to_bytes(quantised(full, ranges, chosen).model)
    return Case(name, graphs, contract, frames[0])


def of_run(path: Path) -> Case:
    """What export left."""
    run = RunDirectory(path)
    contract = run_contract(run)
    full, narrow = (run.artifact_bytes(EXPORT, name) for name in (FP32_GRAPH, INT8_CPU_GRAPH))
    graphs = {way: narrow if way.endswith("int8") else full for way in _WAYS[:-1]}
    height, width = contract.network_size or (256, 512)
    shape = tensor_shape(contract, contract.place(height, width))
    tensor = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
    return Case(path.name, graphs, contract, tensor, _drop(run))


def _drop(run: RunDirectory) -> str:
    report = read_report(run.artifact_bytes(STAGE, "report.json"), "the gate's report", "validate")
    lines = {
        name: next((check.line for check in hop.checks if check.name == "miou_drop"), "")
        for name, hop in report.hops.items()
    }
    return "; ".join(f"{name}: {line}" for name, line in lines.items() if line) or "-"


def measured(
    case: Case, rounds: int, backend: Callable[[str], str] = lambda way: way.partition(" ")[0]
) -> dict[str, tuple[float, float, float]]:
    """Lower quartile, median and upper quartile in ms, turn by turn. On one thread other work does not count.

    `backend`: which one runs a graph, by what the case calls it."""
    calls = {way: _opened(backend(way), graph, case.contract) for way, graph in case.graphs.items()}
    times: dict[str, list[float]] = {way: [] for way in calls}
    for turn in range(rounds + 2):
        for way, call in calls.items():
            started = time.process_time()
            call(case.tensor)
            if turn >= 2:
                times[way].append(1000 * (time.process_time() - started))
    return {way: tuple(np.percentile(values, (25, 50, 75)).tolist()) for way, values in times.items()}


def _opened(name: str, graph: bytes, contract: Contract) -> Call:
    backend: Any = load_opener(name)(graph, contract, OpenOptions(threads=1))
    assert isinstance(backend, HostBackend)
    return backend.scores


def line(case: Case, found: Mapping[str, tuple[float, float, float]]) -> str:
    """A row of the table."""
    cells = []
    for way in _WAYS:
        low, middle, high = found.get(way, (0.0, 0.0, 0.0))
        base = found[way.split("-int8")[0]][1]
        times = f" ({base / middle:.2f}x)" if "int8" in way and middle else ""
        cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f}){times}" if middle else "-")
    size = "x".join(map(str, case.tensor.shape[2:]))
    sizes = [len(case.graphs[way]) for way in ("onnxruntime-cpu-int8", "onnxruntime-cpu")]
    machine = f"{processor()}, {instruction_set('int8')}"
    return f"| {case.name} | {size} | {machine} | {' | '.join(cells)} | {sizes[0] / sizes[1]:.0%} | {case.drop} |\n"


def main(arguments: list[str]) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--networks", nargs="*", default=[], choices=[*NETWORKS, "all"])
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args(arguments)
    names = list(NETWORKS) if "all" in asked.networks else asked.networks
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else HEAD
    for make, what in [*((by_name, name) for name in names), *((of_run, run) for run in asked.runs)]:
        case: Case = make(what)  # type: ignore[operator]
        row = line(case, measured(case, asked.rounds))
        print(row, end="", flush=True)
        text += row
        RESULTS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
