"""The run that is made smaller: what the ladder needs of it, and what keeps it from being climbed, said at once."""

from dataclasses import dataclass
from pathlib import Path

from segpipe.artifacts import EXPORT
from segpipe.errors import InputError, word
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.freshness import changed_values
from segpipe.rundir.manifest import StageRecord
from segpipe.verdict import STAGE as GATE
from stages.config.file import load_config
from stages.config.root import Config, InstancesConfig
from stages.data import fingerprint
from stages.data.files import require_labels


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
    if isinstance(source.config.task, InstancesConfig):
        hint = "train a narrower one: [model] options = { width = 8 }"
        raise InputError(f"{path} tells things one by one: such networks are not compressed yet", hint=hint)
    for stage in (source.origin, EXPORT, GATE):
        run.record(stage)
    _refuse_cut(source)
    _refuse_stale(source)
    require_labels(source.config.data, "compress")
    return source


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
    record = source.record
    wanted = source.config.training()
    changed = changed_values({name: record.params.get(name, {}) for name in wanted}, wanted)
    path = source.run.path
    if not changed and fingerprint(source.config, path, path / ".fingerprints.json") != record.inputs.get("data"):
        changed = ["data changed"]
    if changed and not source.config.model.trained:
        raise InputError(
            f"{path} was trained with other settings or data ({'; '.join(changed[:3])})",
            hint=f"run `segpipe run {word(path)}` first, or take the change back",
        )
