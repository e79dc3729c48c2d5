"""Training on from a network that is trained already: what it begins with, and with which settings."""

from dataclasses import dataclass
from typing import Any

from segpipe.artifacts import CHECKPOINT, UNPRUNED, UNQUANTISED
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import StageRecord
from stages.config.root import Config

STAGE = "train"
_PRUNING, _INT8 = "compress.prune", ("compress.int8", "compress.qat_epochs")


@dataclass(frozen=True)
class Begun:
    """A trained network as a checkpoint, what is known about it, and what it was itself made from, by file name."""

    network: bytes
    figures: dict[str, Any]
    files: dict[str, bytes]

    @classmethod
    def of(cls, figures: dict[str, Any], files: dict[str, bytes]) -> "Begun":
        """Of a training that has just ended."""
        return cls(files[CHECKPOINT], figures, {name: files[name] for name in (UNPRUNED,) if name in files})


def unpruned(rundir: RunDirectory, inputs: dict[str, str], params: dict[str, Any]) -> bytes | None:
    """The network before pruning, where this run has trained it already: it is not trained again."""
    record = _alike(rundir, inputs, params, (_PRUNING, *_INT8))
    if record is None:
        return None
    return _kept(rundir, UNPRUNED if _PRUNING in record.params else _before_int8(record))


def unquantised(rundir: RunDirectory, inputs: dict[str, str], params: dict[str, Any]) -> Begun | None:
    """The network before it is trained for INT8, pruned or not, where this run has it already."""
    record = _alike(rundir, inputs, params, _INT8)
    if record is None or (network := _kept(rundir, _before_int8(record))) is None:
        return None
    kept = {UNPRUNED: _kept(rundir, UNPRUNED)} if UNPRUNED in record.outputs else {}
    return Begun(network, record.figures, {name: data for name, data in kept.items() if data is not None})


def settings_for(config: Config, epochs: int, rate: float) -> Config:
    """The same but for the number of epochs and the share of the learning rate, and no early end."""
    assert config.train.learning_rate != "find"
    changes = {
        "epochs": epochs,
        "learning_rate": config.train.learning_rate * rate,
        "encoder_factor": config.train.encoder_factor or 1.0,  # a frozen encoder would not heal
        "patience": 0,
    }
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _alike(
    rundir: RunDirectory, inputs: dict[str, str], params: dict[str, Any], but_for: tuple[str, ...]
) -> StageRecord | None:
    """The run's training, where it was the one that is wanted but for some settings."""
    record = rundir.manifest.stages.get(STAGE)
    if record is None or STAGE in rundir.forced or record.inputs != inputs:
        return None
    return record if _without(record.params, but_for) == _without(params, but_for) else None


def _without(params: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in names}


def _before_int8(record: StageRecord) -> str:
    return UNQUANTISED if _INT8[0] in record.params else CHECKPOINT


def _kept(rundir: RunDirectory, name: str) -> bytes | None:
    """A file of the last training; None where it is gone or was changed."""
    try:
        return rundir.artifact_bytes(STAGE, name)
    except (ArtifactDamagedError, ArtifactMissingError):
        return None
