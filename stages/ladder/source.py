"""The run that is made smaller: what the ladder needs of it, and what keeps it from being climbed, said at once."""

from dataclasses import dataclass
from pathlib import Path

from segpipe.artifacts import EXPORT
from segpipe.errors import ConfigError, InputError, word
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.freshness import changed_values
from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.storage import read_text_file
from segpipe.verdict import STAGE as GATE
from stages.config.file import load_config
from stages.config.root import Config, InstancesConfig
from stages.data import fingerprint
from stages.data.files import require_labels

WRITTEN = "# Written by `segpipe compress` for "
"""How a rung's settings begin."""


@dataclass(frozen=True)
class Source:
    """A finished run, and the settings that it was made with."""

    run: RunDirectory
    config: Config
    overrides: tuple[str, ...]
    """Those of --set that it was trained with, and those of this command."""

    @property
    def origin(self) -> str:
        """The stage that its network comes from."""
        return "import" if "import" in self.run.manifest.stages else "train"

    @property
    def record(self) -> StageRecord:
        """Of that stage."""
        return self.run.record(self.origin)

    @property
    def why_not_trained(self) -> str:
        """Why nothing may train this network further; empty where it may."""
        if self.origin == "import":
            return "an imported network is a graph without weights to train"
        return "[model] trained is taken as it is" if self.config.model.trained else ""


def source_of(path: Path, sets: list[str]) -> Source:
    """The run, refused where it is not whole or is itself a rung."""
    run = RunDirectory(path)
    overrides = tuple(dict.fromkeys([*run.trained_with(), *sets]))
    source = Source(run, load_config(path, overrides), overrides)
    _refuse_rung(run)
    if isinstance(source.config.task, InstancesConfig):
        hint = "train a narrower one: [model] options = { width = 8 }"
        raise InputError(f"{path} tells things one by one: such networks are not compressed yet", hint=hint)
    for stage in (source.origin, EXPORT, GATE):
        run.record(stage)
    _refuse_cut(source)
    _refuse_stale(source)
    require_labels(source.config.data, "compress")
    return source


def trained_otherwise(record: StageRecord, config: Config) -> list[str]:
    """Which settings a training did not have."""
    wanted = config.training()
    return changed_values({name: record.params.get(name, {}) for name in wanted}, wanted)


def _refuse_rung(run: RunDirectory) -> None:
    """One made by this command: nobody who names it by mistake wants it trained."""
    if read_text_file(run.path / TOML_NAME, ConfigError).startswith(WRITTEN):
        raise InputError(
            f"{run.path} was made by `segpipe compress`: it is smaller already",
            hint=f"give the run that the first line of {word(run.path / TOML_NAME)} names",
        )


def _refuse_cut(source: Source) -> None:
    compress = source.config.compress
    what = "[compress.prune]" if compress.prune else '[compress] int8 = "qat"' if compress.trains_int8 else ""
    if what:
        raise InputError(
            f"{source.run.path} has {what} in its settings: it is smaller already",
            hint="give a run without it, such as the one that it was made from",
        )


def _refuse_stale(source: Source) -> None:
    """What is cheaper must be the same network's."""
    if source.origin == "import":
        return
    record, path = source.record, source.run.path
    changed = trained_otherwise(record, source.config)
    if not changed and fingerprint(source.config, path, path / ".fingerprints.json") != record.inputs.get("data"):
        changed = ["data changed"]
    if changed and not source.config.model.trained:
        raise InputError(
            f"{path} was trained with other settings or data ({'; '.join(changed[:3])})",
            hint=f"run `segpipe run {word(path)}` first, or take the change back",
        )
