"""From a run directory to an open backend: what is hashed and judged before it is opened, and what `auto` picks."""

import logging
import os
from dataclasses import replace

from segpipe.artifacts import ARTIFACTS, BUILD, EXPORT, ON_CPU, Artifact, artifact_named
from segpipe.contract.schema import Contract
from segpipe.errors import (
    ArtifactMissingError,
    BackendError,
    BackendMissingError,
    ContractError,
    NotValidatedError,
    SegpipeError,
    word,
)
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.freshness import moved_inputs
from segpipe.rundir.manifest import Output
from segpipe.runtime.backends import Backend, load_opener
from segpipe.runtime.built import built_for
from segpipe.runtime.cuda.driver_library import load_driver
from segpipe.runtime.request import OpenOptions
from segpipe.verdict import require_passed

_log = logging.getLogger(__name__)

_UNUSABLE = (ArtifactMissingError, BackendMissingError, BackendError, NotValidatedError)
"""What `auto` passes over. A damaged artifact or a wrong contract is an error whatever the backend."""


def open_run(run: RunDirectory, backend: str, options: OpenOptions, allow_unvalidated: bool) -> tuple[Backend, str]:
    """Open what `backend` runs, or with `auto` the best that is usable here; with the artifact's SHA-256."""
    opened = run.at_one_moment(
        lambda: _open_usable(run, backend, options, allow_unvalidated), discard=lambda found: found[0].close()
    )
    if moved := moved_inputs(run.manifest, "export"):
        _log.warning(
            "%s: the export was made from another %s than the run holds now; run `segpipe run %s --from export`",
            run.path,
            ", ".join(moved),
            run.path,
        )
    return opened


def _open_usable(run: RunDirectory, backend: str, options: OpenOptions, allow_unvalidated: bool) -> tuple[Backend, str]:
    """Open the named backend, or with `auto` the first that can be opened."""
    if backend != "auto":
        return _open_one(run, artifact_named(backend), options, allow_unvalidated)
    reasons: list[SegpipeError] = []
    for row in ARTIFACTS.values():
        try:
            if row.needs_gpu:
                load_driver()
            opened = _open_one(run, row, options, allow_unvalidated)
        except _UNUSABLE as reason:
            _log.debug("not %s: %s", row.name, reason)
            reasons.append(reason)
        else:
            _tell_of_better(run, row, reasons)
            return opened
    refused = [reason for reason in reasons if isinstance(reason, NotValidatedError)] or reasons
    raise next((reason for reason in refused if ON_CPU.name in str(reason)), refused[-1])


def _tell_of_better(run: RunDirectory, chosen: Artifact, passed_over: list[SegpipeError]) -> None:
    """Why the best backend whose artifact is there does not run: a GPU without work, or an artifact that lacks a
    verdict."""
    idle = not chosen.needs_gpu and _has_visible_gpu()
    kind = SegpipeError if idle else NotValidatedError
    reasons = [r for r in passed_over if isinstance(r, kind) and not isinstance(r, ArtifactMissingError)]
    if reasons:
        what = "the GPU is not used, " if idle else ""
        level = logging.WARNING if idle else logging.INFO
        _log.log(level, "%s: %s%s runs: %s", run.path, what, chosen.name, reasons[0])


def _has_visible_gpu() -> bool:
    """Whether there is a driver and its GPUs are not hidden. A process that counted them could not fork and use one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return False
    try:
        load_driver()
    except BackendMissingError:
        return False
    return True


def run_contract(run: RunDirectory) -> Contract:
    """The contract a run was exported with, which the manifest must name."""
    return run.at_one_moment(lambda: _agreed_contract(run))


def _agreed_contract(run: RunDirectory) -> Contract:
    contract = Contract.from_json(run.artifact_bytes(EXPORT, "contract.json"), f"{run.path}/export")
    wanted = run.manifest.contract_sha256 or "none"
    if contract.sha256 != wanted:
        raise ContractError(
            f"export was made for contract {contract.sha256[:12]}, the run has {wanted[:12]}",
            hint=f"run `segpipe run {word(run.path)}`",
        )
    return contract


def engines_of(run: RunDirectory) -> dict[str, Output]:
    """The engines of a run, without the kernels that lie beside them; empty when none were built."""
    record = run.manifest.stages.get(BUILD)
    known = {row.file for row in ARTIFACTS.values() if row.is_engine}
    return {name: output for name, output in record.outputs.items() if name in known} if record else {}


def _require_target(run: RunDirectory, row: Artifact) -> None:
    """Refuse a backend whose engine the build was not asked for: building again would not make it."""
    if row.is_engine and BUILD in run.manifest.stages and row.file not in run.record(BUILD).outputs:
        hint = f"add '{row.backend}' to build.targets, then {run.how_to_make(BUILD)}"
        raise ArtifactMissingError(f"{row.path} is not in {run.path}", hint=hint)


def build_options(run: RunDirectory, name: str, options: OpenOptions) -> OpenOptions:
    """What the build left for the runtime: the kernels, and what machine the engine is for."""
    record = run.manifest.stages.get(BUILD)
    if record is None:
        return options
    kernels = {file: run.artifact_bytes(BUILD, file) for file in record.outputs if file.startswith("kernels.")}
    called = options.run if run.manifest.is_bundle else str(run.path)  # engines are built where the bundle's run is
    return replace(options, kernels=kernels, built_for=built_for(record.figures, name), run=called)


def _open_one(run: RunDirectory, row: Artifact, options: OpenOptions, allow_unvalidated: bool) -> tuple[Backend, str]:
    """The verdict is asked for before the artifact is parsed, and again for the very device once that is known."""
    _require_target(run, row)
    sha256 = run.recorded(row.stage, row.file).sha256
    opener = load_opener(row.name)
    if not allow_unvalidated:
        require_passed(run, sha256, row.name)
    built = build_options(run, row.name, options)
    data, contract = run.artifact_bytes(row.stage, row.file), run_contract(run)
    opened = opener(data, contract, built)
    if not allow_unvalidated:
        try:
            require_passed(run, sha256, row.name, opened.device)
        except NotValidatedError:
            opened.close()
            raise
    _log.info("%s: %s on %s runs %s", run.path, row.name, opened.device, row.path)
    return opened, sha256
