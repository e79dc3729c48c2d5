"""Verdicts of the release gate: which artifact passed, on which backend and device. Owns their file and the refusal."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import InputError, NotValidatedError
from segpipe.manifest import Manifest
from segpipe.rundir import RunDirectory

STAGE = "validate"
FILE_NAME = "verdicts.json"


class Verdict(BaseModel):
    """One judgement. `device` is 'cpu', or the name of a GPU; 'none' where the artifact was not run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str
    artifact_sha256: str
    backend: str
    device: str
    contract_sha256: str
    basis_sha256: str = ""
    """Hash of the images, labels and limits it rests on."""
    status: Literal["passed", "failed", "not judged"]
    reasons: tuple[str, ...] = ()

    def is_about(self, other: "Verdict") -> bool:
        """Whether both judge the same bytes on the same backend and device."""
        return (self.artifact_sha256, self.backend, self.device) == (other.artifact_sha256, other.backend, other.device)


VERDICTS = TypeAdapter(tuple[Verdict, ...])
_FORM = Form("list of verdicts", VERDICTS, InputError)


def stored_verdicts(run: RunDirectory) -> tuple[Verdict, ...]:
    """What the last validation said; empty when there was none."""
    if STAGE not in run.manifest.stages:
        return ()
    data = run.artifact_bytes(STAGE, FILE_NAME)
    return _FORM.read(data, f"{STAGE}/{FILE_NAME} of {run.path}", f"run `segpipe validate {run.path} --force`")


def merged(kept: Iterable[Verdict], new: Iterable[Verdict], basis_sha256: str, manifest: Manifest) -> list[Verdict]:
    """New verdicts, and those of other machines that still hold: same artifact, contract, images and limits.

    'Not judged' says nothing where another machine has judged.
    """
    held = {output.sha256 for record in manifest.stages.values() for output in record.outputs.values()}
    fresh = list(new)
    judged = [verdict for verdict in fresh if verdict.status != "not judged"]
    old = [
        verdict
        for verdict in kept
        if verdict.status != "not judged"
        and verdict.artifact_sha256 in held
        and (verdict.contract_sha256, verdict.basis_sha256) == (manifest.contract_sha256, basis_sha256)
        and not any(verdict.is_about(other) for other in judged)
    ]
    known = {(verdict.artifact_sha256, verdict.backend) for verdict in (*old, *judged)}
    unjudged = [
        verdict
        for verdict in fresh
        if verdict.status == "not judged" and (verdict.artifact_sha256, verdict.backend) not in known
    ]
    return [*old, *judged, *unjudged]


def require_passed(run: RunDirectory, artifact_sha256: str, backend: str, device: str | None = None) -> None:
    """Refuse an artifact that the gate has not passed for this backend and device (None: for any device)."""
    where = f"{backend} ({device})" if device else backend
    command = f"run `segpipe validate {run.path}`"
    if run.manifest.stages.get("build") and backend.startswith("tensorrt"):
        command += f" here, or `segpipe validate {run.path} --hop engine` where PyTorch is not installed"
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
