"""A run with a second graph, and a row of the table that opens it on the CPU: a wrong artifact beside its reference.

On machines without a GPU no artifact has a file of its own; the table of this process gets one.
"""

import json
from pathlib import Path

import numpy as np

from segpipe import artifacts, testing, verdict
from segpipe.artifacts import EXPORT, FP16_GRAPH, FP32_GRAPH, Artifact
from segpipe.contract.schema import Contract
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory

ROW = Artifact("onnxruntime-half", "onnxruntime-cpu", "fp16", EXPORT, FP16_GRAPH)


def add_row() -> None:
    """Let this process open it."""
    artifacts.ARTIFACTS[ROW.name] = ROW
    vars(artifacts)["_ROWS"] = (*artifacts._ROWS, ROW)


def make_run(path: Path, scale: float = 1.0, contract: Contract = testing.CONTRACT) -> Path:
    """A run whose second graph has the weights of one class scaled; both have a passed verdict."""
    run = RunDirectory.create(path)
    good = testing.make_onnx(contract)
    weight, _ = testing.weights_of(contract)
    own = np.ascontiguousarray(weight[3]).tobytes()
    assert good.count(own) == 1
    planted = good.replace(own, (weight[3] * np.float32(scale)).tobytes())
    with run.step(EXPORT, {}, {}) as step:
        step.path(FP32_GRAPH).write_bytes(good)
        step.path(FP16_GRAPH).write_bytes(planted + (b"" if scale != 1 else b"\x1a\x00"))  # an empty producer version
        step.path("contract.json").write_text(contract.to_json())
        step.path("palette.json").write_text(json.dumps(testing.palette_of(contract)))
        step.contract_sha256 = contract.sha256
    verdicts = [
        {
            "artifact": f"{EXPORT}/{file}",
            "artifact_sha256": run.recorded(EXPORT, file).sha256,
            "backend": backend,
            "device": CPU,
            "contract_sha256": contract.sha256,
            "status": "passed",
        }
        for file, backend in ((FP32_GRAPH, "onnxruntime-cpu"), (FP16_GRAPH, ROW.name))
    ]
    with run.step(verdict.STAGE, [run.artifact(EXPORT, FP32_GRAPH)], {}) as step:
        step.path(verdict.FILE_NAME).write_text(json.dumps(verdicts))
    return path
