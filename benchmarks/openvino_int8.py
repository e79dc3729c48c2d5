"""Which INT8 OpenVINO runs best: the u8 graph that ONNX Runtime has too, ours for engines, or one made by NNCF.

    pip install nncf
    python -m benchmarks.openvino_int8 [--networks NAME ...] [--rounds 20] [RUN ...]    # results/openvino_int8.md

A RUN was exported with compress.int8; its accuracy is that of the gate's frames. Networks by name have random weights:
they tell speed. The first line installs what segpipe does not need.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.int8 import NETWORKS, Case, by_name, measured, of_run
from segpipe.processor import instruction_set, processor
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from stages.config.file import load_config
from stages.data import open_split
from stages.data.choosing import chosen
from stages.export.calibration import frames_for
from stages.graphs.reading import to_bytes
from stages.measuring.masks import MaskComparison, MaskShape, Truth

RESULTS = Path(__file__).parent / "results" / "openvino_int8.md"
HEAD = """# INT8 for OpenVINO

`python -m benchmarks.openvino_int8` with {versions}: milliseconds of processor time of the network alone on one thread
(quartiles), turn by turn in one process; times as fast as FP32 by OpenVINO; equal pixels and the drop in mIoU (95 %)
on the gate's frames of val; seconds to make it.

| network | machine | graph | ms | | equal pixels | mIoU drop | made in |
|---|---|---|---:|---:|---:|---:|---:|
"""
FLOATS, OURS, ENGINES = "FP32", "u8 (segpipe)", "s8 for engines, in FP32"
_PRESETS = {"NNCF": nncf.QuantizationPreset.PERFORMANCE, "NNCF, mixed": nncf.QuantizationPreset.MIXED}
_NOISE = 4


def made_by_nncf(full: bytes, tensors: list[NDArray[Any]]) -> Iterator[tuple[str, bytes, float]]:
    """Its name, the graph and the seconds."""
    for name, preset in _PRESETS.items():
        model = onnx.load_model_from_string(full)
        dataset = nncf.Dataset(tensors, lambda tensor, source=model.graph.input[0].name: {source: tensor})
        started = time.monotonic()
        made = nncf.quantize(model, dataset, preset=preset, subset_size=len(tensors))
        yield name, to_bytes(made), time.monotonic() - started


def case_of(subject: str | Path) -> tuple[Case, dict[str, float], dict[str, str]]:
    """Graphs by what made them, seconds to make them, and what masks come out where there are frames."""
    case = by_name(subject) if isinstance(subject, str) else of_run(subject)
    graphs = {FLOATS: case.graphs["openvino"], OURS: case.graphs["openvino-int8"]}
    if isinstance(subject, str):
        graphs[ENGINES] = case.graphs["openvino-int8 s8"]
        shape = case.tensor.shape
        tensors = [np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for seed in range(_NOISE)]
    else:
        config = load_config(subject, ())
        tensors = [*frames_for(config, subject, case.contract, trained_here=True).tensors()]
    made = [*made_by_nncf(graphs[FLOATS], tensors)]
    graphs |= {name: graph for name, graph, _ in made}
    told = {} if isinstance(subject, str) else masks(subject, case, graphs)
    return replace(case, graphs=graphs), {name: seconds for name, _, seconds in made}, told


def masks(run: Path, case: Case, graphs: dict[str, bytes]) -> dict[str, str]:
    """Cells of the table."""
    config = load_config(run, ())
    split = open_split(config, run, "val")
    shape = MaskShape(len(case.contract.classes), config.validate_.boundary_px)
    answers = {name: opened(name, graph, case) for name, graph in graphs.items()}
    sums = {name: MaskComparison(shape) for name in graphs if name != FLOATS}
    for index in islice(chosen(len(split), config.validate_.images), config.validate_.images):
        frame, labels = split.sample(index)
        truth = Truth.of(answers[FLOATS](frame), labels, None, shape)
        for name, found in sums.items():
            found.add(truth, answers[name](frame))
    return {name: f"{1 - found.flips / found.pixels:.2%} | {_drop(found)}" for name, found in sums.items()}


def _drop(found: MaskComparison) -> str:
    drop = found.miou_drop()
    return "-" if drop is None else f"{drop.value:.4f} ({drop.low:.4f} to {drop.high:.4f})"


def opened(name: str, graph: bytes, case: Case) -> Callable[[Any], Any]:
    """Frame to mask."""
    backend = load_opener(_backend(name))(graph, case.contract, OpenOptions(threads=1))
    return lambda frame: backend.infer([frame], Outputs())[0].mask


def _backend(name: str) -> str:
    return "openvino" if name == FLOATS else "openvino-int8"


def main(arguments: list[str]) -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--networks", nargs="*", default=[], choices=[*NETWORKS])
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args(arguments)
    versions = ", ".join(f"{name} {version(name)}" for name in ("nncf", "openvino"))
    text = HEAD.format(versions=versions)
    for subject in (*asked.networks, *asked.runs):
        case, seconds, told = case_of(subject)
        times = measured(case, asked.rounds, _backend)
        for name, (low, middle, high) in times.items():
            faster = "" if name == FLOATS else f"{times[FLOATS][1] / middle:.2f}x"
            spent = f"{seconds[name]:.0f} s" if name in seconds else "-"
            text += f"| {case.name} | {processor()}, {instruction_set('int8')} | {name} | {middle:.2f} ({low:.2f} to "
            text += f"{high:.2f}) | {faster} | {told.get(name, '- | -')} | {spent} |\n"
        print(text, flush=True)
        RESULTS.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
