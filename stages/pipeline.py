"""Running some of the stages, in the order of their table and under one lock."""

import logging
from dataclasses import dataclass
from pathlib import Path

from segpipe.errors import InputError, word
from segpipe.rundir.directory import RunDirectory
from stages import train
from stages.config import user_code
from stages.config.root import Config
from stages.table import FIRST, LAST, NAMES, replaced, row
from stages.train.processes import rank

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Selection:
    """From which stage to which, both included, whether fresh ones run again, and the --set that are in the config."""

    first: str = FIRST
    last: str = LAST
    force: bool = False
    overrides: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The selected stages in order."""
        return NAMES[NAMES.index(self.first) : NAMES.index(self.last) + 1]


def run_stages(path: Path, config: Config, base: Path, selection: Selection) -> RunDirectory:
    """Run the selected stages of a run directory; `base` is where relative data paths start.

    Of the processes that torchrun or Lightning start for one training, only the first writes and goes on.
    """
    user_code.look_beside(path)
    if rank():
        train.assist(path, config, base, selection.force)
    rundir = RunDirectory.create(path, frozenset(selection.names() if selection.force else ()))
    if replaced(selection.last, rundir.manifest.stages):
        raise InputError(f"{path} holds an imported network", hint=f"run `segpipe run {word(path)} --from export`")
    _refuse_no_weights(rundir, config)
    with rundir.writing():
        trained_with = selection.overrides if "train" in selection.names() else rundir.trained_with()
        described = {**config.stored(), "toml_sha256": rundir.toml_sha256(), "trained_with": trained_with}
        rundir.save_config(described)
        for name in selection.names():
            if replaced(name, rundir.manifest.stages):
                _log.info("%s: nothing to do, the network was imported", name)
                continue
            row(name).run(rundir, config, base)
    return rundir


def _refuse_no_weights(rundir: RunDirectory, config: Config) -> None:
    """An imported graph has none that could be trained."""
    if config.retrained and replaced("train", rundir.manifest.stages):
        raise InputError(
            f"{config.retrained[0]} trains, and {rundir.path} holds an imported network: a graph without "
            "weights to train",
            hint="leave it out, or start a run from the network in PyTorch ([model] name and weights)",
        )
