"""Two runs side by side: last month's engine and today's, on the same images through the same backends."""

import logging
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from segpipe.artifacts import ON_CPU
from segpipe.contract.schema import Contract
from segpipe.errors import ContractError, GateFailedError, InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.results.gate import HopReport, figure, percent
from stages.validate import named
from stages.validate.hops.hop import Answer, Answered
from stages.validate.hops.opening import OpenHops
from stages.validate.hops.stored import StoredReference
from stages.validate.judging.judge import Judge, Setup
from stages.validate.pages.report import hop_reports

_log = logging.getLogger(__name__)

_GRID = ("output_stride", "output_kind", "network_size", "fit", "size_multiple")
COLUMNS = ("backend", "agreement", "flips", "inside", "large margin", "relative L2", "mIoU then", "mIoU now", "verdict")


def compare_runs(ours: RunDirectory, other: RunDirectory) -> dict[str, HopReport]:
    """Each backend that opens in both runs: ours compared with the other's, on the images stored in ours."""
    stored, contract = StoredReference(ours), run_contract(ours)
    theirs = run_contract(other)
    if (contract.classes, contract.channels, contract.dtype) != (theirs.classes, theirs.channels, theirs.dtype):
        contract.require_same(theirs, str(ours.path), str(other.path))
        raise ContractError(f"{ours.path} and {other.path} segment different things", hint="compare runs of one task")
    reports: dict[str, HopReport] = {}
    setup = Setup(contract, stored.index.settings, stored.index.batches)
    with OpenHops(ours, contract) as here, OpenHops(other, theirs) as there:
        for opened in (here, there):
            opened.open(ON_CPU)
            opened.open_deployed()
        before = {hop.name: hop.answer for hop in there.hops}
        for hop in here.hops:
            if hop.name in before:
                reference = before[hop.name] if same_grid(contract, theirs) else _masks_only(before[hop.name])
                judge = Judge(setup, reference, [hop])
                for image in stored.images():
                    judge.add(image)
                judge.finish()
                reports |= hop_reports(judge, setup, {})
    if not reports:
        raise InputError(f"no backend opens both {ours.path} and {other.path} here", hint="run `segpipe doctor`")
    return reports


def same_grid(ours: Contract, theirs: Contract) -> bool:
    """Whether the scores of both networks have the same shape and meaning for every frame."""
    return all(getattr(ours, name) == getattr(theirs, name) for name in _GRID)


def table(reports: dict[str, HopReport]) -> list[list[str]]:
    """A row a backend."""
    return [
        [name, percent(hop.figures.agreement), str(hop.figures.flips), percent(hop.figures.flips_inside),
         figure(hop.figures.large_margin_flips), figure(hop.figures.scores.relative_l2),
         figure(hop.figures.reference_miou), figure(hop.figures.miou), hop.status]
        for name, hop in reports.items()
    ]  # fmt: skip


def refuse_drift(reports: dict[str, HopReport]) -> None:
    """Exit 3 where a limit of the gate fails between the two runs, after a line for each."""
    failed = [
        f"'{name}': {check.line}" for name, hop in reports.items() for check in hop.checks if check.status == "failed"
    ]
    for line in failed:
        _log.error("%s", line)
    if failed:
        raise GateFailedError(f"the two runs differ: {named(failed)}", hint="read the table and the lines above")


def _masks_only(answer: Answer) -> Answer:
    """Networks of different strides or sizes share no grid of scores: only their masks are compared."""

    def masks(frames: Sequence[NDArray[Any]]) -> list[Answered]:
        return [Answered(answered.mask, None) for answered in answer(frames)]

    return masks
