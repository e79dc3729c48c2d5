"""Runs for model repositories."""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx

from segpipe import testing, verdict
from segpipe.artifacts import ARTIFACTS, BUILD, END_TO_END, END_TO_END_GRAPH, EXPORT, FP32_GRAPH, ON_CPU
from segpipe.contract.schema import Contract
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory
from stages.graphs.end_to_end import end_to_end
from tests.trained import replace_output

GPU = "NVIDIA H200"
LARGEST = 4
CONTRACT = testing.CONTRACT.model_copy(update={"network_size": (32, 64), "fit": "stretch", "size_multiple": 1})


def with_engine(path: Path, contract: Contract = CONTRACT) -> Path:
    """A tiny run with bytes for an engine of TensorRT, which passed on a GPU, and so did ONNX Runtime CUDA."""
    run = RunDirectory(testing.make_run(path, contract))
    row = ARTIFACTS["tensorrt"]
    with run.step(BUILD, {}, {}) as step:
        step.path(row.file).write_bytes(b"an engine")
        step.figures = {row.name: {"profiles": [{"largest": [LARGEST, 3, 32, 64]}]}}
        step.contract_sha256 = contract.sha256
    _judge(run, {row.name: run.artifact(BUILD, row.file), "onnxruntime-cuda": run.artifact(EXPORT, FP32_GRAPH)}, GPU)
    return path


def with_end_to_end(path: Path, contract: Contract = CONTRACT) -> Path:
    """A tiny run with the graph from frame to mask, which passed on a CPU."""
    run = RunDirectory(testing.make_run(path, contract))
    whole = end_to_end(onnx.load_from_string(testing.make_onnx(contract)), contract, True)
    replace_output(run, EXPORT, END_TO_END_GRAPH, whole.SerializeToString())
    graph = run.artifact(EXPORT, FP32_GRAPH)
    _judge(run, {ON_CPU.name: graph, END_TO_END: run.artifact(EXPORT, END_TO_END_GRAPH)}, CPU)
    return path


def _judge(run: RunDirectory, files: Mapping[str, Path], device: str) -> None:
    """Add a passed verdict for each file, by the name of what runs it."""
    verdicts = json.loads(run.artifact_bytes(verdict.STAGE, verdict.FILE_NAME))
    verdicts += [
        verdicts[0]
        | {
            "artifact": file.relative_to(run.path).as_posix(),
            "artifact_sha256": run.recorded_sha256(file),
            "backend": name,
            "device": device,
        }
        for name, file in files.items()
    ]
    with run.step(verdict.STAGE, [*files.values()], {"status": "passed"}) as step:
        step.path(verdict.FILE_NAME).write_text(json.dumps(verdicts))
