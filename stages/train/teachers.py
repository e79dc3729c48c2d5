"""Which file a teacher is, and its hash: an input of training. Light: nothing is loaded."""

from dataclasses import dataclass
from pathlib import Path

from segpipe.artifacts import CHECKPOINT, EXPORT, FP32_GRAPH
from segpipe.errors import ConfigError, word
from segpipe.rundir.directory import RunDirectory
from stages.config.root import Config

SETTING = "[compress.distil] teacher"
_FILES = {"train": CHECKPOINT, "import": FP32_GRAPH, EXPORT: FP32_GRAPH}
"""What is taken of a run: its network in PyTorch, the graph it was imported from, or what a bundle has."""


@dataclass(frozen=True)
class TeacherFile:
    """A teacher's network on disk."""

    run: RunDirectory
    stage: str

    @property
    def name(self) -> str:
        """The run's, for people."""
        return self.run.path.resolve().name

    @property
    def sha256(self) -> str:
        """Of the file, as the teacher's record has it."""
        return self.run.recorded(self.stage, _FILES[self.stage]).sha256

    def read(self) -> bytes:
        """The file's bytes, checked."""
        return self.run.artifact_bytes(self.stage, _FILES[self.stage])


def teacher_file(config: Config, base: Path) -> TeacherFile | None:
    """The teacher that the config names, relative to `base`; None without one. Refused where it has no network."""
    if config.compress.distil is None:
        return None
    path = base / config.compress.distil.teacher
    if path.resolve() == base.resolve():
        raise ConfigError(f"{SETTING}: {path} is this run itself", hint="name another run, or a copy of this one")
    if not path.exists():
        raise ConfigError(f"{SETTING}: {path} does not exist", hint="name a run directory, relative to the TOML file")
    run = RunDirectory(path)
    stage = next((stage for stage in _FILES if stage in run.manifest.stages), None)
    if stage is None:
        raise ConfigError(
            f"{SETTING}: {path} holds no network yet", hint=f"make it first: `segpipe run {word(path)} --until train`"
        )
    return TeacherFile(run, stage)
