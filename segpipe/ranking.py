"""What `auto` goes by: how fast the benchmark found each artifact on a machine like this one, and the least precision.

Both are hints of the run's records: a ranking of another machine is left alone, and nothing in one opens an artifact
that the release gate did not pass.
"""

import logging
from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from segpipe.artifacts import ARTIFACTS, PACKAGES, Artifact, Precision
from segpipe.cores import usable_cores
from segpipe.documents import Form
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError, InputError
from segpipe.installed import versions
from segpipe.processor import processor, vector_sets
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest
from segpipe.runtime.cuda.driver_library import gpus

STAGE = "benchmark"
FILE_NAME = "ranking.json"
_GPUS = "gpus"

_log = logging.getLogger(__name__)


class MeasuredSpeed(BaseModel):
    """One artifact, end to end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact_sha256: str
    p50_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Ranking(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    machine: dict[str, str]
    """Processor, cores, GPUs and versions of the backends' packages: on another machine another one may be faster."""
    measured: dict[str, MeasuredSpeed]
    """By the artifact's name in the table."""


class Floor(BaseModel):
    """[deploy] as the gate recorded it: the least fine precision that `auto` runs by itself."""

    gpu: Precision = "fp16"
    cpu: Precision = "fp32"

    def least(self, row: Artifact) -> Precision:
        """For an artifact of that row."""
        return self.gpu if row.needs_gpu else self.cpu


_FORM = Form("ranking", TypeAdapter(Ranking), InputError)


def floor_of(manifest: Manifest) -> Floor:
    """What the last validation was told; the defaults where it was told nothing."""
    record = manifest.stages.get("validate")
    try:
        return Floor.model_validate(record.params.get("deploy", {}) if record else {})
    except ValidationError:
        return Floor()


def machine() -> dict[str, str]:
    """What speeds belong to."""
    return _without_gpus() | {_GPUS: _gpus()}


def _without_gpus() -> dict[str, str]:
    """What is known without starting the driver."""
    facts = {"processor": processor(), "instructions": vector_sets(), "cores": str(usable_cores())}
    facts |= versions(*PACKAGES)
    return {key: value for key, value in facts.items() if value}


def _gpus() -> str:
    return "; ".join(map(str, gpus()))


def speeds_here(run: RunDirectory, names: Collection[str] = tuple(ARTIFACTS)) -> dict[str, float]:
    """Milliseconds a frame of those named that the run still holds; nothing where none were measured here."""
    record = run.manifest.stages.get(STAGE)
    if record is None or FILE_NAME not in record.outputs:
        return {}
    try:
        ranking = _FORM.read(
            run.artifact_bytes(STAGE, FILE_NAME), f"{STAGE}/{FILE_NAME} of {run.path}", "measure again"
        )
    except (ArtifactDamagedError, ArtifactMissingError, InputError) as error:
        _log.warning("the ranking is left out: %s", error)
        return {}
    held = {name: entry for name, entry in ranking.measured.items() if entry.artifact_sha256 == _held(run, name)}
    speeds = {name: entry.p50_ms for name, entry in held.items() if name in names}
    if other := _differing(ranking.machine, any(ARTIFACTS[name].needs_gpu for name in speeds)):
        what = ", ".join(f"{key} {ranking.machine.get(key, 'none')}" for key in other)
        _log.info("%s: speeds were measured elsewhere (%s), so auto goes by the table's order", run.path, what)
        return {}
    return speeds


def _differing(there: dict[str, str], with_gpus: bool) -> list[str]:
    """The facts that are others here. GPUs come last, and matter only to what ran on one: asking starts the driver."""
    here = _without_gpus()
    keys = (there.keys() | here) - {_GPUS}
    found = sorted(key for key in keys if there.get(key) != here.get(key))
    if not found and with_gpus and there.get(_GPUS) != _gpus():
        return [_GPUS]
    return found


def _held(run: RunDirectory, name: str) -> str | None:
    row = ARTIFACTS.get(name)
    record = run.manifest.stages.get(row.stage) if row else None
    output = record.outputs.get(row.file) if row and record else None
    return output.sha256 if output else None
