"""Verdicts of the release gate: which artifact passed, on which backend and device. Owns their file and the refusal."""

import logging
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe import local_verdicts
from segpipe.artifacts import ARTIFACTS
from segpipe.documents import Form
from segpipe.errors import InputError, NotValidatedError, SegpipeError, word
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import Manifest, Moment, moment_of
from segpipe.rundir.storage import read_bounded

STAGE = "validate"
FILE_NAME = "verdicts.json"

_log = logging.getLogger(__name__)


class Verdict(BaseModel):
    """One judgement. `device` is 'cpu' (with an instruction set where that decides the numbers) or a GPU's name; 'none'
    where the artifact was not run."""

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

    def overrules(self, new: "Verdict") -> bool:
        """Whether it stands, as a failure on all images, against a pass on some of the same images."""
        same = (self.contract_sha256, self.basis_sha256) == (new.contract_sha256, new.basis_sha256)
        return same and self.is_about(new) and (self.status, new.status) == ("failed", "passed")


class LocalVerdict(BaseModel):
    """A verdict made where the artifact is deployed, with the report it rests on; one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    made_utc: Moment
    verdict: Verdict
    report: dict[str, Any]


VERDICTS = TypeAdapter(tuple[Verdict, ...])
_FORM = Form("list of verdicts", VERDICTS, InputError)
_LOCAL = Form("local verdict", TypeAdapter(LocalVerdict), InputError)


def stored_verdicts(run: RunDirectory) -> tuple[Verdict, ...]:
    """What the last validation said; empty when there was none."""
    if STAGE not in run.manifest.stages:
        return ()
    again = run.how_to_make(STAGE) if run.manifest.is_bundle else f"run `segpipe validate {word(run.path)} --force`"
    return _FORM.read(run.artifact_bytes(STAGE, FILE_NAME), f"{STAGE}/{FILE_NAME} of {run.path}", again)


def local_files(run: RunDirectory) -> Iterator[tuple[Path, LocalVerdict | SegpipeError]]:
    """Verdicts made on this machine, about this run or others, and why a file holds none."""
    for path in local_verdicts.files(run.path):
        again = f"delete it and run `segpipe validate {word(run.path)} --hop engine`"
        try:
            yield path, _LOCAL.read(read_bounded(path), str(path), again)
        except FileNotFoundError:
            continue
        except SegpipeError as error:
            if local_verdicts.is_named_as_one(path):
                yield path, error


def all_verdicts(run: RunDirectory) -> tuple[Verdict, ...]:
    """The run's own and, behind them, the newest of those made on this machine that hold for it."""
    own = stored_verdicts(run)
    local: list[LocalVerdict] = []
    for _, found in local_files(run):
        if isinstance(found, SegpipeError):
            _warn_once(f"a verdict is left out: {found}")
        elif not why_void(found.verdict, own, run.manifest):
            local.append(found)
    return (*own, *_newest(local))


def _newest(local: list[LocalVerdict]) -> list[Verdict]:
    """One for each artifact, backend and device, wherever its file lies; of two of one moment a failure stands."""
    order = sorted(local, key=lambda entry: (moment_of(entry.made_utc), entry.verdict.status != "passed"))
    verdicts = [entry.verdict for entry in order]
    return [old for at, old in enumerate(verdicts) if not any(old.is_about(new) for new in verdicts[at + 1 :])]


@cache
def _warn_once(line: str) -> None:
    """In a process: opening a run asks for its verdicts several times."""
    _log.warning("%s", line)


def why_void(local: Verdict, own: Iterable[Verdict], manifest: Manifest) -> str:
    """Why a verdict made on this machine says nothing about this run; empty when it does."""
    own = tuple(own)
    if local.artifact_sha256 not in held_sha256(manifest):
        return "of another artifact"
    if local.contract_sha256 != manifest.contract_sha256:
        return "of another contract"
    if local.basis_sha256 not in {verdict.basis_sha256 for verdict in own}:
        return "on other images or limits"
    return "failed by the gate on all images" if any(verdict.overrules(local) for verdict in own) else ""


def held_sha256(manifest: Manifest) -> set[str]:
    """Of every file of the run."""
    return {output.sha256 for record in manifest.stages.values() for output in record.outputs.values()}


def merged(kept: Iterable[Verdict], new: Iterable[Verdict], basis_sha256: str, manifest: Manifest) -> list[Verdict]:
    """New verdicts, and those of other machines that still hold: same artifact, contract, images and limits.

    'Not judged' says nothing where another machine has judged.
    """
    held = held_sha256(manifest)
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
    hint = f"{how_to_judge(run, backend)}, or pass allow_unvalidated=True while developing"
    matching = [
        verdict
        for verdict in all_verdicts(run)
        if (verdict.artifact_sha256, verdict.backend) == (artifact_sha256, backend)
        and device in {None, verdict.device}
        and verdict.contract_sha256 == run.manifest.contract_sha256
    ]
    if not matching:
        raise NotValidatedError(f"no verdict for artifact {artifact_sha256[:12]} on {where} in {run.path}", hint=hint)
    latest = {verdict.device: verdict for verdict in matching}
    if all(verdict.status != "passed" for verdict in latest.values()):
        if matching[-1].status == "failed":
            hint = _instead(run, hint)
        raise NotValidatedError(_refusal(matching[-1], where), hint=hint)


def _instead(run: RunDirectory, hint: str) -> str:
    """What failed fails again: first what passed, if anything did."""
    passed = {verdict.backend for verdict in all_verdicts(run) if verdict.status == "passed"} & ARTIFACTS.keys()
    return f"use {' or '.join(sorted(passed))}, which passed; after a change {hint}" if passed else hint


def _refusal(verdict: Verdict, where: str) -> str:
    """What is known of an artifact that did not pass. That no backend opened it was said on the gate's machine."""
    reasons = "; ".join(verdict.reasons)
    if verdict.status == "not judged":
        why = reasons.removeprefix("not run here: ").partition(". ")[0]
        return f"{verdict.artifact} was not judged on {where} (where the gate ran: {why})"
    return f"{verdict.artifact} on {where} was judged: {verdict.status} ({reasons})"


def how_to_judge(run: RunDirectory, backend: str) -> str:
    """The commands that give an artifact its verdict, from what the run or bundle carries."""
    hop = "engine" if backend in ARTIFACTS and ARTIFACTS[backend].is_engine else backend
    here = f"`segpipe validate {word(run.path)} --hop {hop}`"
    if not run.manifest.is_bundle:
        return f"run `segpipe validate {word(run.path)}` here, or {here} where PyTorch is not installed"
    judged = run.manifest.stages.get(STAGE)
    if judged is not None and {*local_verdicts.REFERENCE} <= {*judged.outputs}:
        return f"run {here} here"
    return f"it carries no reference to judge by: {run.how_to_make(STAGE)}, then `segpipe validate DIR --hop {hop}`"
