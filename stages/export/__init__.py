"""Stage `export`: model.safetensors -> model.onnx, model.fp16.onnx, contract.json, palette.json."""

from pathlib import Path

from segpipe.rundir import RunDirectory
from stages.config import Config
from stages.environment import versions

STAGE = "export"
VERSION = 1


def run(rundir: RunDirectory, config: Config) -> Path:
    """Export this run's network, unless an export with the same key is already there."""
    checkpoint = rundir.artifact("train", "model.safetensors")
    params = {"stage_version": VERSION, **config.sections("export")}
    with rundir.step(STAGE, [checkpoint], params) as step:
        if step.stale:
            from stages.export.graph import export_files

            exported = export_files(checkpoint.read_bytes(), config.export)
            for name, data in exported.files.items():
                step.path(name).write_bytes(data)
            step.contract_sha256 = exported.contract_sha256
            step.figures = exported.figures
            step.environment |= versions("torch", "onnx", "onnxscript")
    return rundir.artifact(STAGE, "model.onnx")
