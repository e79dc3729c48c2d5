"""From a run directory to an open backend: what is hashed and judged before it is opened, and what `auto` picks."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from segpipe.artifacts import (
    ARTIFACTS,
    AUTO,
    BUILD,
    EXPORT,
    FAMILIES,
    ON_CPU,
    Artifact,
    Precision,
    chosen,
    held_by,
    is_finer,
)
from segpipe.contract.schema import AnyContract, Contract, FrameContract, InstanceContract
from segpipe.errors import (
    ArtifactMissingError,
    BackendError,
    BackendMissingError,
    ContractError,
    NotValidatedError,
    SegpipeError,
    word,
)
from segpipe.palette import Colours, read_palette
from segpipe.ranking import Floor, floor_of, speeds_here
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.freshness import moved_inputs
from segpipe.rundir.manifest import Output
from segpipe.runtime.backends import Backend, load_opener, refuse_contract
from segpipe.runtime.built import built_for
from segpipe.runtime.cuda.driver_library import are_hidden, has_driver, load_driver
from segpipe.runtime.frames import Order, require_order
from segpipe.runtime.request import OpenOptions
from segpipe.verdict import require_passed

_log = logging.getLogger(__name__)
_Kind = TypeVar("_Kind", bound=FrameContract)

_OPENED_BY = {
    "semantic": "segpipe.Segmenter",
    "instances": "segpipe.runtime.instance_segmenter.InstanceSegmenter",
}
"""The segmenter of each task."""

_UNUSABLE = (ArtifactMissingError, BackendMissingError, BackendError, NotValidatedError)
"""What `auto` passes over. A damaged artifact or a wrong contract is an error whatever the backend."""


@dataclass(frozen=True)
class Wanted:
    """What to open: a name of the table, a backend's name or a family's; a precision narrows it."""

    backend: str = AUTO
    precision: Precision | None = None
    allow_unvalidated: bool = False


@dataclass(frozen=True)
class Opened(Generic[_Kind]):
    """What a segmenter is made of, all of one moment."""

    backend: Backend
    contract: _Kind
    palette: Colours
    artifact_sha256: str


def open_parts(
    run: RunDirectory, kind: type[_Kind], wanted: Wanted, options: OpenOptions, order: Order
) -> Opened[_Kind]:
    """Contract, palette and network of a run for the task of this kind of contract. `order`: of frames to come."""

    def read() -> Opened[_Kind]:
        contract = contract_of(run, kind)
        palette = read_palette(run, EXPORT, any_contract(run))
        require_order(order, contract)
        backend, sha256 = open_run(run, wanted, options)
        return Opened(backend, contract, palette, sha256)

    return run.at_one_moment(read, lambda found: found.backend.close())


def open_run(run: RunDirectory, wanted: Wanted, options: OpenOptions) -> tuple[Backend, str]:
    """Open what is wanted, or of a family the best that is usable here; with the artifact's SHA-256."""
    opened = run.at_one_moment(lambda: _open_usable(run, wanted, options), discard=lambda found: found[0].close())
    if moved := moved_inputs(run.manifest, EXPORT):
        _log.warning(
            "%s: the export was made from another %s than the run holds now; run `segpipe run %s --from export`",
            run.path,
            ", ".join(moved),
            run.path,
        )
    return opened


def _open_usable(run: RunDirectory, wanted: Wanted, options: OpenOptions) -> tuple[Backend, str]:
    """Open the named backend, or of a family the first that can be opened."""
    rows = chosen(run.manifest, wanted.backend, wanted.precision)
    if wanted.backend not in FAMILIES:
        return _open_one(run, rows[0], options, wanted.allow_unvalidated)
    floor = None if wanted.precision else floor_of(run.manifest)
    speeds = speeds_here(run, [row.name for row in rows if _is_allowed(row, floor)])
    reasons: dict[str, SegpipeError] = {}
    held = {row.name for row in held_by(run.manifest)}
    for row in _in_order(rows, speeds):
        try:
            _require_usable(row, floor if row.name in held else None)  # that it is not there says more
            why = (
                f"measured fastest here, {speeds[row.name]:.3g} ms"
                if row.name in speeds
                else "the first that is usable"
            )
            opened = _open_one(run, row, options, wanted.allow_unvalidated, f" ({wanted.backend}: {why})")
        except _UNUSABLE as reason:
            _log.debug("not %s: %s", row.name, reason)
            reasons[row.name] = reason
        else:
            _tell_of_better(run, row, [*reasons.values()])
            return opened
    raise _telling(reasons)


def _in_order(rows: Sequence[Artifact], speeds: Mapping[str, float]) -> list[Artifact]:
    """As given, but that the measured ones change places with each other: what nobody measured is not passed over."""
    fastest_first = iter(sorted((row for row in rows if row.name in speeds), key=lambda row: speeds[row.name]))
    return [next(fastest_first) if row.name in speeds else row for row in rows]


def _is_allowed(row: Artifact, floor: Floor | None) -> bool:
    return floor is None or is_finer(row.precision, floor.least(row))


def _require_usable(row: Artifact, floor: Floor | None) -> None:
    """Before anything of the run is read: the precision that [deploy] names, and a GPU where one is needed."""
    if floor is not None and not _is_allowed(row, floor):
        where, least = "gpu" if row.needs_gpu else "cpu", floor.least(row)
        raise BackendError(
            f"{row.name} computes in {row.precision}, and deploy.{where} is {least}",
            hint=f"ask for it with precision='{row.precision}', or set deploy.{where} in segpipe.toml and validate",
        )
    if row.needs_gpu:
        load_driver()


def _telling(reasons: dict[str, SegpipeError]) -> SegpipeError:
    """Of all that could not be opened: what lacks a verdict says more, and what runs everywhere says most, also that
    it is not installed, unless there is a GPU with work that lacks its verdict."""
    refused = {name: reason for name, reason in reasons.items() if isinstance(reason, NotValidatedError)}
    everywhere = reasons.get(ON_CPU.name)
    if isinstance(everywhere, BackendMissingError) and not any(ARTIFACTS[name].needs_gpu for name in refused):
        return everywhere
    said = refused or reasons
    return said.get(ON_CPU.name) or [*said.values()][-1]


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
    return not are_hidden() and has_driver()


def run_contract(run: RunDirectory) -> Contract:
    """The contract a run was exported with, which the manifest must name, of a network for masks."""
    return contract_of(run, Contract)


def any_contract(run: RunDirectory) -> AnyContract:
    """The same, of a network for any of the tasks."""
    contract = contract_of(run, FrameContract)
    assert isinstance(contract, Contract | InstanceContract)
    return contract


def contract_of(run: RunDirectory, kind: type[_Kind]) -> _Kind:
    """The same, of a network for the task of this kind of contract."""
    contract = run.at_one_moment(lambda: _agreed_contract(run))
    if not isinstance(contract, kind):
        raise ContractError(
            f"{run.path} holds a network for the task '{contract.task}', wanted '{kind.task}'",
            hint=f"`segpipe predict` takes it, and {_OPENED_BY[contract.task]}" if contract.task in _OPENED_BY else "",
        )
    return contract


def _agreed_contract(run: RunDirectory) -> FrameContract:
    contract = FrameContract.from_json(run.artifact_bytes(EXPORT, "contract.json"), f"{run.path}/export")
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
        refuse_contract(row, any_contract(run))
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


def _open_one(
    run: RunDirectory, row: Artifact, options: OpenOptions, allow_unvalidated: bool, why: str = ""
) -> tuple[Backend, str]:
    """The verdict is asked for before the artifact is parsed, and again for the very device once that is known."""
    _require_target(run, row)
    sha256 = run.recorded(row.stage, row.file).sha256
    opener = load_opener(row.name)
    if not allow_unvalidated:
        require_passed(run, sha256, row.name)
    built = build_options(run, row.name, options)
    data, contract = run.artifact_bytes(row.stage, row.file), contract_of(run, FrameContract)
    opened = opener(data, contract, built)
    if not allow_unvalidated:
        try:
            require_passed(run, sha256, row.name, opened.device)
        except NotValidatedError:
            opened.close()
            raise
    _log.info("%s: %s on %s runs %s%s", run.path, row.name, opened.device, row.path, why)
    return opened, sha256
