"""Stage `train`: data and config -> model.safetensors. Light: torch is imported when there is work."""

from pathlib import Path
from typing import Any, NoReturn

from segpipe.artifacts import CHECKPOINT, UNPRUNED
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError
from segpipe.installed import versions
from segpipe.rundir import manifest
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.step import SCRATCH, is_intact
from stages.config import user_code
from stages.config.losses import Ohem, OwnLoss
from stages.config.root import Config, TrainConfig
from stages.data import fingerprint
from stages.data.check import refuse_broken
from stages.models import source_hash, trained_hash, weights_hash
from stages.train.teachers import teacher_file

STAGE = "train"
VERSION = 2
ADOPT_VERSION = 1
_VERSION_OF_OHEM = 3
"""Of OHEM with class weights or smoothing: they used to decide what is hard. All else means what it did."""
SHEET = "augmentation.png"
_PRUNING = "compress.prune"


def run(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Train, or continue a training that was cut short, unless a network with the same key is already there.

    Where [model] names a trained network, that is taken as it is instead.
    """
    if config.model.trained:
        return _adopt(rundir, config, base)
    inputs, params = _key_parts(config, base, rundir.path / ".fingerprints.json")
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            refuse_broken(config, base, rundir.path / ".data-check", inputs["data"])
            from stages.train.trainer import Folders

            folders = Folders(step.scratch(), step.path(SHEET), _logs(rundir.path))
            if config.compress.prune is None:
                from stages.train.fit import fit

                outcome = fit(config, base, folders)
            else:
                from stages.train.pruning import fit_pruned

                outcome = fit_pruned(config, base, folders, _unpruned(rundir, inputs, params))
            for name, content in outcome.files.items():
                step.path(name).write_bytes(content)
            step.contract_sha256 = outcome.trained.contract.sha256
            step.figures = outcome.figures
            step.environment |= versions("torch", "torchvision", "lightning", "torchmetrics", "numpy")
            if config.compress.prune is not None:
                step.environment |= versions("torch-pruning")
    return rundir.artifact(STAGE, CHECKPOINT)


def _adopt(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Somebody else's weights are what training would have left, unless they are already there."""
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {"data": data, "trained": trained_hash(config.model, base)}
    if (source := source_hash(config.model)) is not None:
        inputs["factory"] = source
    output = {"output": config.train.output, "threshold": config.train.threshold}
    params = {"stage_version": ADOPT_VERSION, **config.sections("data", "input", "model"), "answers": output}
    with rundir.step(STAGE, inputs, params) as step:
        if step.stale:
            refuse_broken(config, base, rundir.path / ".data-check", data)
            from stages.train.adopt import adopt

            outcome = adopt(config, base)
            for name, content in outcome.files.items():
                step.path(name).write_bytes(content)
            step.contract_sha256 = outcome.trained.contract.sha256
            step.figures = outcome.figures
            step.environment |= versions("torch", "torchvision", "numpy")
    return rundir.artifact(STAGE, CHECKPOINT)


def assist(path: Path, config: Config, base: Path, forced: bool) -> NoReturn:
    """What every process but the first does: train along, leave the run directory to the first, and end."""
    if config.model.trained:
        raise SystemExit(0)  # one process is enough to take a network as it is
    inputs, params = _key_parts(config, base, cache=None)
    key = manifest.stage_key(inputs, params)
    record = manifest.load(path).stages.get(STAGE) if (path / manifest.FILE_NAME).exists() else None
    fresh = record is not None and record.key == key and is_intact(path, record)
    if forced or not fresh:
        from stages.train.trainer import Folders

        partial = path / STAGE / f"{key[:12]}.partial"
        folders = Folders(partial / SCRATCH, partial / SHEET, _logs(path))
        if config.compress.prune is None:
            from stages.train.fit import learn

            learn(config, base, folders)
        else:
            from stages.train.pruning import learn_pruned

            unpruned = None if record is None or forced else _unpruned(RunDirectory(path), inputs, params)
            learn_pruned(config, base, folders, unpruned)
    raise SystemExit(0)


def _key_parts(config: Config, base: Path, cache: Path | None) -> tuple[dict[str, str], dict[str, Any]]:
    """Inputs and parameters: what decides the weights."""
    inputs = {"data": fingerprint(config, base, cache)}
    if (source := source_hash(config.model)) is not None:
        inputs["factory"] = source
    for term in config.train.loss:
        if isinstance(term, OwnLoss):
            inputs[f"loss {term.kind}"] = user_code.source_hash(term.kind, "train.loss kind")
    if (weights := weights_hash(config.model, base)) is not None:
        inputs["weights"] = weights
    if (teacher := teacher_file(config, base)) is not None:
        inputs["teacher"] = teacher.sha256
    return inputs, {"stage_version": _version(config.train), **config.training()}


def _unpruned(rundir: RunDirectory, inputs: dict[str, str], params: dict[str, Any]) -> bytes | None:
    """The network before pruning, where this run has trained it already: it is not trained again."""
    record = rundir.manifest.stages.get(STAGE)
    if record is None or STAGE in rundir.forced or record.inputs != inputs:
        return None
    if _but_for_pruning(record.params) != _but_for_pruning(params):
        return None
    name = UNPRUNED if _PRUNING in record.params else CHECKPOINT
    try:
        return rundir.artifact_bytes(STAGE, name)
    except (ArtifactDamagedError, ArtifactMissingError):
        return None


def _but_for_pruning(params: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name != _PRUNING}


def _version(config: TrainConfig) -> int:
    """The newest one that changed what this config means, so that no other network is trained again."""
    weighted = config.class_weights != "none"
    changed = any(isinstance(term, Ohem) and (weighted or term.label_smoothing) for term in config.loss)
    return _VERSION_OF_OHEM if changed else VERSION


def _logs(path: Path) -> Path:
    return path / "logs" / STAGE
