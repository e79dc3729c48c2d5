"""Stage `validate`, the release gate: is what will be deployed still the network that was trained?"""

import json
from pathlib import Path
from typing import Any

from segpipe.errors import GateFailedError
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import engines_of
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS
from stages.config import Config
from stages.data import fingerprint
from stages.environment import versions

VERSION = 2


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Compare every hop with PyTorch FP32, unless the same artifacts were judged on the same images before."""
    imported = "import" in rundir.manifest.stages
    artifacts = [
        rundir.artifact("import", "model.onnx") if imported else rundir.artifact("train", "model.safetensors"),
        rundir.artifact("export", "model.onnx"),
        rundir.artifact("export", "model.fp16.onnx"),
    ]
    artifacts += [rundir.artifact("build", name) for name in engines_of(rundir)]
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {rundir.relative(path): rundir.recorded_sha256(path) for path in artifacts} | {"data": data}
    params = {"stage_version": VERSION, "device": "cpu", **config.sections("data", "validate")}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.validate.gate import judge_run

            judgement = judge_run(rundir, config, base)
            step.path("report.json").write_text(json.dumps(judgement.report, indent=2))
            step.path(FILE_NAME).write_bytes(VERDICTS.dump_json(judgement.verdicts, indent=2))
            step.path("worst.png").write_bytes(judgement.worst_png)
            step.contract_sha256 = rundir.manifest.contract_sha256
            step.figures = judgement.figures
            step.environment |= versions("torch", "onnxruntime-gpu", "onnxruntime", "numpy", "opencv-python-headless")
    refuse_failures(rundir)
    return rundir.artifact(STAGE, "report.json")


def refuse_failures(rundir: RunDirectory) -> None:
    """A failed gate stays failed when nothing changed."""
    figures: dict[str, Any] = rundir.record(STAGE).figures
    if figures["failed"]:
        raise GateFailedError(
            f"the release gate failed: {'; '.join(figures['failed'])}",
            hint=f"read {rundir.artifact(STAGE, 'report.json')} and worst.png beside it",
        )
