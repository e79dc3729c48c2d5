"""Stage `train`: data and config -> model.safetensors. Light: torch is imported when there is work."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from segpipe.artifacts import CHECKPOINT
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
from stages.train.further import STAGE, Begun, unpruned, unquantised
from stages.train.teachers import teacher_file

if TYPE_CHECKING:
    from stages.train.fit import Outcome
    from stages.train.trainer import Folders

VERSION = 2
ADOPT_VERSION = 1
_VERSION_OF_OHEM = 3
"""Of OHEM with class weights or smoothing: they used to decide what is hard. All else means what it did."""
SHEET = "augmentation.png"
_KeyParts = tuple[dict[str, str], dict[str, Any]]
"""Inputs and parameters."""


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
            outcome = _outcome(rundir, (inputs, params), config, base, folders)
            for name, content in outcome.files.items():
                step.path(name).write_bytes(content)
            step.contract_sha256 = outcome.trained.contract.sha256
            step.figures = outcome.figures
            step.environment |= versions("torch", "torchvision", "lightning", "torchmetrics", "numpy")
            if config.compress.prune is not None:
                step.environment |= versions("torch-pruning")
    return rundir.artifact(STAGE, CHECKPOINT)


def _outcome(rundir: RunDirectory, key: _KeyParts, config: Config, base: Path, folders: "Folders") -> "Outcome":
    """One training after another, and what they reached; they begin with what the run has already."""
    if not config.compress.trains_int8:
        return _in_floats(rundir, key, config, base, folders)
    from stages.train.quantising import fit_quantised, refuse_unroundable

    refuse_unroundable(config)
    begun = unquantised(rundir, *key)
    if begun is None:
        floats = _in_floats(rundir, key, config, base, folders)
        begun = Begun.of(floats.figures, floats.files)
    return fit_quantised(config, base, folders, begun)


def _in_floats(rundir: RunDirectory, key: _KeyParts, config: Config, base: Path, folders: "Folders") -> "Outcome":
    if config.compress.prune is None:
        from stages.train.fit import fit

        return fit(config, base, folders)
    from stages.train.pruning import fit_pruned

    return fit_pruned(config, base, folders, unpruned(rundir, *key))


def _adopt(rundir: RunDirectory, config: Config, base: Path) -> Path:
    """Somebody else's weights are what training would have left, unless they are already there."""
    data = fingerprint(config, base, rundir.path / ".fingerprints.json")
    inputs = {"data": data, "trained": trained_hash(config.model, base)}
    if (source := source_hash(config.model)) is not None:
        inputs["factory"] = source
    output = {"output": config.train.output, "threshold": config.train.threshold}
    sections = {**config.sections("data", "input", "model"), **config.chosen_task()}
    params = {"stage_version": ADOPT_VERSION, **sections, "answers": output}
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
        _learn_along(None if record is None or forced else RunDirectory(path), (inputs, params), config, base, folders)
    raise SystemExit(0)


def _learn_along(rundir: RunDirectory | None, key: _KeyParts, config: Config, base: Path, folders: "Folders") -> None:
    """The trainings of `_outcome` without what is measured. `rundir`: where something of it may be there already."""
    from stages.train.fit import best_of, learn

    begun = unquantised(rundir, *key) if rundir and config.compress.trains_int8 else None
    if begun is not None:
        network = begun.network
    elif config.compress.prune is None:
        network = best_of(learn(config, base, folders), config)
    else:
        from stages.train.pruning import learn_pruned

        done = learn_pruned(config, base, folders, unpruned(rundir, *key) if rundir else None)
        network = best_of(done.learned, config)
    if config.compress.trains_int8:
        from stages.train.quantising import learn_quantised

        learn_quantised(config, base, folders, network)


def _key_parts(config: Config, base: Path, cache: Path | None) -> _KeyParts:
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


def _version(config: TrainConfig) -> int:
    """The newest one that changed what this config means, so that no other network is trained again."""
    weighted = config.class_weights != "none"
    changed = any(isinstance(term, Ohem) and (weighted or term.label_smoothing) for term in config.loss)
    return _VERSION_OF_OHEM if changed else VERSION


def _logs(path: Path) -> Path:
    return path / "logs" / STAGE
