"""RunDirectory: the one place where stages meet. Owns reading what is vouched for, and the writer's lock."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError, ManifestError, NotARunError, SegpipeError, word
from segpipe.rundir import latest, lock, manifest
from segpipe.rundir.manifest import Manifest, Output, StageRecord
from segpipe.rundir.step import Step
from segpipe.rundir.storage import (
    explained_reads,
    explained_refusals,
    read_bounded,
    sha256_of,
    sha256_of_bytes,
    sweep_temporaries,
    write_atomically,
)

CONFIG_NAME = "config.json"
TOML_NAME = "segpipe.toml"

_T = TypeVar("_T")


class _StoredConfig(BaseModel):
    """What `save_config` was given, as far as it is read again."""

    chosen: dict[str, dict[str, Any]]
    resolved: dict[str, dict[str, Any]]
    toml_sha256: str | None = None
    trained_with: list[str] = []


_CONFIG = Form("stored config", TypeAdapter(_StoredConfig), ManifestError)
_FOREIGN = "if it is yours, use another folder for the run; else move it aside, and the next command writes it anew"


def _stored_config(run: Path) -> _StoredConfig | None:
    path = run / CONFIG_NAME
    try:
        data = read_bounded(path)
    except FileNotFoundError:
        return None
    return _CONFIG.read(data, str(path), _FOREIGN)


class RunDirectory:
    """A run on disk. Reading needs no lock; `step` and `save_config` take the writer's lock (see `writing`)."""

    def __init__(self, path: Path, forced: frozenset[str] = frozenset()) -> None:
        self.path = path
        self.manifest: Manifest = manifest.load(path)
        self.forced = forced
        self._locked = False

    @classmethod
    def create(cls, path: Path, forced: frozenset[str] = frozenset()) -> "RunDirectory":
        """Open a run, making an empty one where there is none."""
        with explained_reads(path):
            missing = not (path / manifest.FILE_NAME).exists()
            is_file = path.exists() and not path.is_dir()
        if missing:
            if is_file:
                raise NotARunError(f"{path} is a file", hint="name a directory for the run")
            _stored_config(path)  # a stranger's is refused before anything is written beside it
            with explained_refusals(str(path)):
                path.mkdir(parents=True, exist_ok=True)
            with lock.exclusive(path):
                if not (path / manifest.FILE_NAME).exists():
                    manifest.save(path, Manifest())
        return cls(path, forced)

    # --- reading -------------------------------------------------------------------------------------------------

    def record(self, stage: str) -> StageRecord:
        """The finished stage, or an error naming the command that runs it."""
        if stage not in self.manifest.stages:
            raise ArtifactMissingError(f"stage '{stage}' has not run in {self.path}", hint=self.how_to_make(stage))
        return self.manifest.stages[stage]

    def recorded(self, stage: str, name: str) -> Output:
        """What the manifest says of a finished file that is there; its bytes are not checked."""
        return self._outlasting_commits(lambda: self._locate(stage, name))[1]

    def artifact(self, stage: str, name: str) -> Path:
        """Path of a finished file whose bytes were just checked."""

        def check() -> Path:
            path, output = self._locate(stage, name)
            with explained_reads(path):
                found = sha256_of(path)
            self._vouch(stage, path, found, output)
            return path

        return self._outlasting_commits(check)

    def artifact_bytes(self, stage: str, name: str) -> bytes:
        """A finished file's bytes, checked as read: nothing can change between the check and the use."""

        def read() -> bytes:
            path, output = self._locate(stage, name)
            with explained_reads(path):
                size_bytes = path.stat().st_size
                if size_bytes > output.size_bytes:  # what has grown might not fit into memory
                    raise self._changed(stage, path, f"{size_bytes} bytes, recorded {output.size_bytes}")
                data = path.read_bytes()
            self._vouch(stage, path, sha256_of_bytes(data), output)
            return data

        return self._outlasting_commits(read)

    def how_to_make(self, stage: str) -> str:
        """The commands that make a stage's files; those of a bundle are made where its run is."""
        if not self.manifest.is_bundle:
            return f"run `segpipe run {word(self.path)} --until {stage}`"
        again = f"`segpipe run RUN --until {stage}` and `segpipe bundle RUN -o DIR --with-reference`"
        return f"run {again} where the run of this bundle is, and copy DIR here"

    def refresh(self) -> bool:
        """Take the manifest as it is now; whether another process has committed since it was read."""
        found = manifest.load(self.path)
        if found == self.manifest:
            return False
        self.manifest = found
        return True

    def at_one_moment(self, read: Callable[[], _T], discard: Callable[[_T], object] = lambda _: None) -> _T:
        """What `read` makes of several files, all of one state: read anew where a commit came between them.

        A result of two states is handed to `discard`, and an error that came of them is forgotten.
        """
        while True:
            before = self.manifest
            try:
                result = read()
            except SegpipeError:
                if self.manifest is before:
                    raise
                continue
            if self.manifest is before:
                return result
            discard(result)

    def recorded_sha256(self, path: Path) -> str:
        """The hash that an artifact was just checked against."""
        stage, _, name = manifest.logical_name(self.relative(path)).partition("/")
        return self.record(stage).outputs[name].sha256

    def relative(self, path: Path) -> str:
        """A path inside the run as the manifest writes it."""
        return path.relative_to(self.path).as_posix()

    def config(self) -> dict[str, Any] | None:
        """Every table of the last command's config with what was chosen in it: all that is no default."""
        stored = _stored_config(self.path)
        return {table: stored.chosen.get(table, {}) for table in stored.resolved} if stored else None

    def trained_with(self) -> list[str]:
        """The --set options of the last command that trained, or found its training fresh."""
        try:
            stored = _stored_config(self.path)
        except ManifestError:
            return []  # the command that asks refuses to replace it
        return stored.trained_with if stored else []

    def config_edited(self) -> bool:
        """Whether segpipe.toml is another than the last command read."""
        stored = _stored_config(self.path)
        return (
            stored is not None and "toml_sha256" in stored.model_fields_set and stored.toml_sha256 != self.toml_sha256()
        )

    def toml_sha256(self) -> str | None:
        """SHA-256 of segpipe.toml; None where there is none."""
        path = self.path / TOML_NAME
        with explained_reads(path):
            return sha256_of_bytes(read_bounded(path)) if path.is_file() else None

    # --- writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the writer's lock; reentrant, so that a whole pipeline can hold it around its steps."""
        if self._locked:
            yield
            return
        with lock.exclusive(self.path):
            self._locked = True
            try:
                with explained_refusals(str(self.path)):
                    sweep_temporaries(self.path)
                self.manifest = manifest.load(self.path)
                yield
            finally:
                self._locked = False

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Keep the config of this command; `segpipe show` compares the records with it. A stranger's stays."""
        data = json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"
        path = self.path / CONFIG_NAME
        with explained_reads(path):
            if path.is_file() and path.read_bytes() == data:
                return
        _stored_config(self.path)
        with self.writing():
            write_atomically(path, data)

    @contextmanager
    def step(self, stage: str, inputs: Sequence[Path] | Mapping[str, str], params: Mapping[str, Any]) -> Iterator[Step]:
        """Run a stage's body when `step.stale`; leaving without an error commits what `step.path` handed out.

        `inputs` are paths that `artifact` gave, or name -> SHA-256 for what lies outside. `params` must be JSON.
        """
        with self.writing(), explained_refusals(f"{self.path}/{stage}"):
            if not isinstance(inputs, Mapping):
                inputs = {self.relative(path): self.recorded_sha256(path) for path in inputs}
            plain = json.loads(json.dumps(dict(params)))
            step = Step(self.path, stage, dict(inputs), plain)
            step.begin(self.manifest, forced=stage in self.forced)
            yield step
            if step.stale:
                self.manifest = step.commit(self.manifest)
            latest.refresh(self.path, self.manifest.stages)

    def _outlasting_commits(self, read: Callable[[], _T]) -> _T:
        """Read again where a commit of another process superseded the file meanwhile."""
        while True:
            try:
                return read()
            except (FileNotFoundError, ArtifactDamagedError):
                if not self.refresh():
                    raise

    def _locate(self, stage: str, name: str) -> tuple[Path, Output]:
        record = self.record(stage)
        path = self.path / record.path / name
        with explained_reads(path):
            present = name in record.outputs and path.is_file()
        if not present:
            raise ArtifactMissingError(f"{stage}/{name} is not in {self.path}", hint=self.how_to_make(stage))
        return path, record.outputs[name]

    def _vouch(self, stage: str, path: Path, found: str, output: Output) -> None:
        if found != output.sha256:
            raise self._changed(stage, path, f"SHA-256 {found[:12]}, recorded {output.sha256[:12]}")

    def _changed(self, stage: str, path: Path, difference: str) -> ArtifactDamagedError:
        return ArtifactDamagedError(
            f"{path} was changed after it was made: {difference}",
            hint=f"to make it again {self.how_to_make(stage)}",
        )
