"""Verdicts of the release gate: which artifact passed, on which backend and device. Owns their file and the refusal."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe.errors import NotValidatedError
from segpipe.rundir import RunDirectory

STAGE = "validate"
FILE_NAME = "verdicts.json"


class Verdict(BaseModel):
    """One judgement. `device` is 'cpu', or the name of a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str
    artifact_sha256: str
    backend: str
    device: str
    contract_sha256: str
    status: Literal["passed", "failed", "not judged"]
    reasons: tuple[str, ...] = ()


VERDICTS = TypeAdapter(tuple[Verdict, ...])


def stored_verdicts(run: RunDirectory) -> tuple[Verdict, ...]:
    """What the last validation said; empty when there was none."""
    if STAGE not in run.manifest.stages:
        return ()
    return VERDICTS.validate_json(run.artifact_bytes(STAGE, FILE_NAME))


def require_passed(run: RunDirectory, artifact_sha256: str, backend: str, device: str | None = None) -> None:
    """Refuse an artifact that the gate has not passed for this backend and device (None: for any device)."""
    where = f"{backend} ({device})" if device else backend
    command = f"run `segpipe validate {run.path}`"
    matching = [
        verdict
        for verdict in stored_verdicts(run)
        if (verdict.artifact_sha256, verdict.backend) == (artifact_sha256, backend)
        and device in {None, verdict.device}
        and verdict.contract_sha256 == run.manifest.contract_sha256
    ]
    if not matching:
        raise NotValidatedError(
            f"no verdict for artifact {artifact_sha256[:12]} on {where} in {run.path}",
            hint=f"{command}, or pass allow_unvalidated=True while developing",
        )
    latest = {verdict.device: verdict for verdict in matching}
    if all(verdict.status != "passed" for verdict in latest.values()):
        verdict = matching[-1]
        raise NotValidatedError(
            f"{verdict.artifact} on {where} was judged: {verdict.status} ({'; '.join(verdict.reasons)})",
            hint=f"{command} and read its report, or pass allow_unvalidated=True while developing",
        )
