"""manifest.json: what every stage made, from what, how. Owns its schema, parsing and the key of a stage."""

import json
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from segpipe.documents import Form
from segpipe.errors import ManifestError, NotARunError, word
from segpipe.rundir.storage import explained_reads, read_bounded, sha256_of_bytes, write_atomically

FILE_NAME = "manifest.json"
SCHEMA = 1
_NAME_BYTES = 255  # of one part of a path, on the file systems there are


class Output(BaseModel):
    """One finished file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size_bytes: Annotated[int, Field(ge=0, lt=1 << 63)]


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} does not lie inside the run")
    if not name.isprintable() or max(len(part.encode()) for part in path.parts) > _NAME_BYTES:
        raise ValueError(f"{name[:40]!r} is not a file name")
    return name


def moment_of(text: str) -> datetime:
    """What was checked to be a moment."""
    return datetime.fromisoformat(text).astimezone(UTC)


def _moment(text: str) -> str:
    try:
        moment_of(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is not a moment in ISO 8601") from None
    return text


Moment = Annotated[str, AfterValidator(_moment)]


class StageRecord(BaseModel):
    """Everything known about one finished stage. `path` and `inputs` are relative to the run directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    path: Annotated[str, Field(pattern=r"^[a-z]+/[0-9a-f]{12}(-[0-9])?$")]
    inputs: dict[str, str]
    params: dict[str, Any]
    environment: dict[str, str]
    outputs: dict[Annotated[str, AfterValidator(_inside)], Output]
    started_utc: Moment
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    figures: dict[str, Any]


class Manifest(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    contract_sha256: str | None = None
    stages: dict[str, StageRecord] = {}

    @model_validator(mode="after")
    def _keep_to_their_folders(self) -> Self:
        for stage, record in self.stages.items():
            if record.path.partition("/")[0] != stage:
                raise ValueError(f"stage {stage[:40]!r} lies in {record.path}, another stage's folder")
        return self

    @property
    def is_bundle(self) -> bool:
        """Whether `segpipe bundle` wrote it: an export whose inputs lie in the run that made it."""
        return "export" in self.stages and not self.stages["export"].inputs

    def with_stage(self, stage: str, record: StageRecord, contract_sha256: str | None) -> "Manifest":
        """A copy in which `stage` is `record`."""
        contract = contract_sha256 or self.contract_sha256
        return Manifest(contract_sha256=contract, stages={**self.stages, stage: record})


_FORM = Form("manifest", TypeAdapter(Manifest), ManifestError, SCHEMA)


def load(directory: Path) -> Manifest:
    """Read a run directory's manifest, or say in one line what is wrong with it."""
    path = directory / FILE_NAME
    with explained_reads(directory):
        if not directory.is_dir():
            raise _no_run(directory)
    try:
        data = read_bounded(path)
    except FileNotFoundError:
        raise _no_run(directory) from None
    return _FORM.read(data, str(path), f"restore it from a backup, or move {directory} aside and run again")


def _no_run(directory: Path) -> NotARunError:
    """What is there instead."""
    if directory.is_file():
        return NotARunError(f"{directory} is a file", hint="name the run directory")
    if (directory / "segpipe.toml").is_file():
        return NotARunError(f"nothing has run in {directory} yet", hint=f"run `segpipe run {word(directory)}`")
    if directory.is_dir():
        found = f"{directory} is not a run directory: it has no {FILE_NAME}"
        return NotARunError(
            found, hint=f"start one with `segpipe new {word(directory)}` and `segpipe run {word(directory)}`"
        )
    return NotARunError(
        f"there is no run directory {directory}", hint=f"check the path, or start with `segpipe new {word(directory)}`"
    )


def save(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest: the one commit of a run directory."""
    text = json.dumps(manifest.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True)
    write_atomically(directory / FILE_NAME, text.encode() + b"\n")


def stage_key(inputs: dict[str, str], params: dict[str, Any]) -> str:
    """What decides whether a stage must run again: its inputs' hashes and its parameters, not where they lie."""
    named = {logical_name(path): digest for path, digest in inputs.items()}
    return sha256_of_bytes(json.dumps({"inputs": named, "params": params}, sort_keys=True).encode())


def logical_name(path: str) -> str:
    """`train/1a2b3c4d5e6f/model.safetensors` -> `train/model.safetensors`; names without a key folder stay."""
    stage, _, rest = path.partition("/")
    _, _, name = rest.partition("/")
    return f"{stage}/{name}" if name else path
