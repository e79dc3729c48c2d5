"""A run of a network for things, nothing trained: it finds the same disc and box in every frame."""

import json
from pathlib import Path

from segpipe import verdict
from segpipe.artifacts import ON_CPU
from segpipe.contract.schema import InstanceContract
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory
from tests.test_instances import CONTRACT, PALETTE, constant_graph


def make_things_run(path: Path, contract: InstanceContract = CONTRACT) -> Path:
    """A run directory that `InstanceSegmenter.open` takes."""
    run = RunDirectory.create(path)
    with run.step(ON_CPU.stage, {"testing": contract.sha256}, {}) as step:
        step.path(ON_CPU.file).write_bytes(constant_graph(contract))
        step.path("contract.json").write_text(contract.to_json())
        step.path("palette.json").write_text(json.dumps(PALETTE))
        step.contract_sha256 = contract.sha256
    model = run.artifact(ON_CPU.stage, ON_CPU.file)
    judged = {
        "artifact": ON_CPU.path,
        "artifact_sha256": run.recorded_sha256(model),
        "backend": ON_CPU.name,
        "device": CPU,
        "contract_sha256": contract.sha256,
        "status": "passed",
    }
    with run.step(verdict.STAGE, [model], {"status": "passed"}) as step:
        step.path(verdict.FILE_NAME).write_text(json.dumps([judged]))
    return path
