"""How long a rung will train, by how long the run's own training took: said before it begins."""

from segpipe.rundir.directory import RunDirectory
from stages.config.compress import CompressConfig
from stages.config.root import Config
from stages.ladder.source import Source, trained_otherwise
from stages.results.figures import TrainFigures, read

_MINUTE_S = 90.0
"""From here on minutes say enough."""


def announced(name: str, source: Source, rung: RunDirectory, config: Config) -> str | None:
    """In words; None where nothing is to be trained, or has been trained already."""
    record = rung.manifest.stages.get("train")
    if not config.retrained or record is None or not trained_otherwise(record, config):
        return None
    epochs = _epochs(config.compress)
    said = f"{name} trains {epochs} epoch{'s' if epochs > 1 else ''}"
    own = read(TrainFigures, source.run.manifest.stages)
    if own is None or not own.epochs:
        return said
    epoch_s = source.record.seconds / own.epochs
    return f"{said}, about {_length(epochs * epoch_s)} (this run's own took {_length(epoch_s)} each)"


def _epochs(compress: CompressConfig) -> int:
    """Of all further trainings: a pruned network has a control beside it."""
    pruning = 2 * compress.prune.epochs if compress.prune else 0
    return pruning + (compress.qat_epochs if compress.trains_int8 else 0)


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= _MINUTE_S else f"{max(1.0, seconds):.0f} s"
