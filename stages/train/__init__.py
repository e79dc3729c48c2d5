"""Stage `train`: data and config -> model.safetensors. Light: torch is imported when there is work."""

from pathlib import Path

from segpipe.rundir import RunDirectory
from stages.config import Config
from stages.data import fingerprint
from stages.environment import versions
from stages.models import source_hash

STAGE = "train"
VERSION = 1
CHECKPOINT = "model.safetensors"


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Train, or continue a training that was cut short, unless a network with the same key is already there."""
    inputs = {"data": fingerprint(config, base, rundir.path / ".fingerprints.json")}
    if (source := source_hash(config.model)) is not None:
        inputs["factory"] = source
    params = {"stage_version": VERSION, **config.sections("data", "input", "model", "train")}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            from stages.train.fit import fit, outcome_files

            outcome = fit(config, base, step.scratch("resume"))
            for name, data in outcome_files(outcome, config).items():
                step.path(name).write_bytes(data)
            step.contract_sha256 = outcome.trained.contract.sha256
            step.figures = outcome.figures
            step.environment |= versions("torch", "torchvision", "lightning", "torchmetrics", "numpy")
    return rundir.artifact(STAGE, CHECKPOINT)
