"""Runs for model repositories."""

import json
from pathlib import Path

from segpipe import testing, verdict
from segpipe.artifacts import ARTIFACTS, BUILD, FP32_GRAPH
from segpipe.contract.schema import Contract
from segpipe.rundir.directory import RunDirectory

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
    files = {row.name: run.artifact(BUILD, row.file), "onnxruntime-cuda": run.artifact("export", FP32_GRAPH)}
    verdicts = json.loads(run.artifact_bytes(verdict.STAGE, verdict.FILE_NAME))
    verdicts += [
        verdicts[0]
        | {
            "artifact": file.relative_to(path).as_posix(),
            "artifact_sha256": run.recorded_sha256(file),
            "backend": name,
            "device": GPU,
        }
        for name, file in files.items()
    ]
    with run.step(verdict.STAGE, [*files.values()], {"status": "passed"}) as step:
        step.path(verdict.FILE_NAME).write_text(json.dumps(verdicts))
    return path
