"""Judging an artifact where PyTorch is not: against the stored reference, with the base install and a backend only."""

import logging
import math
import re
from datetime import UTC, datetime

from segpipe import local_verdicts
from segpipe.artifacts import ARTIFACTS, BUILD, END_TO_END, END_TO_END_GRAPH, EXPORT, FP16_GRAPH, ON_CPU
from segpipe.errors import BackendError, GateFailedError, InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.opening import any_contract
from segpipe.verdict import LocalVerdict, Verdict, stored_verdicts
from stages.measuring.tensors import FP16_MAX
from stages.results.gate import GateReport
from stages.validate import named
from stages.validate.hops.opening import OpenHops, deployed, holds_end_to_end
from stages.validate.hops.stored import StoredReference, stored_index, stored_report
from stages.validate.judging.checks import Peak
from stages.validate.judging.judge import Judge, Setup
from stages.validate.pages.report import hop_reports, images_of, new_verdicts, not_judged

_log = logging.getLogger(__name__)


def validate_hop(rundir: RunDirectory, wanted: str) -> list[str]:
    """Judge what `wanted` names ('engine' or a backend) and keep its verdicts here; returns lines to print."""
    local_verdicts.prepare(rundir.path)
    report = rundir.at_one_moment(lambda: judge_stored(rundir, wanted))
    if not report.hops:
        raise _nothing_judged(rundir, wanted, report)
    overruled = keep(rundir, report)
    failed = report.failed()
    for line in failed:
        _log.error("%s", line)
    if failed:
        raise GateFailedError(
            f"the release gate failed: {named(failed)}",
            hint="where PyTorch is installed, run `segpipe validate RUN --explain`; "
            "where this machine is to blame, change it and run the same command again",
        )
    if overruled:
        raise GateFailedError(
            f"passed on the stored images, but the gate failed it here on all its images: {'; '.join(overruled)}",
            hint="where PyTorch is installed, run `segpipe validate RUN` and read its report",
        )
    return [f"{hop.artifact} on {hop.backend} ({hop.device}): {hop.outcome}" for hop in report.hops.values()]


def _nothing_judged(rundir: RunDirectory, wanted: str, report: GateReport) -> BackendError:
    """What kept every artifact from being opened, or that there is none."""
    is_stale = any("was built from another" in entry.reason for entry in report.not_judged)
    if report.not_judged and _needs_gpu(wanted) and gpu_name() is None and not is_stale:
        return BackendError(
            f"no hop '{wanted}' could be judged: no NVIDIA GPU here",
            hint="run it on the GPU server, or judge the ONNX file with "
            f"`segpipe validate {rundir.path} --hop {ON_CPU.name}`",
        )
    reasons = "; ".join(f"{entry.artifact} on {entry.backend}: {entry.reason}" for entry in report.not_judged)
    if not reasons and wanted not in {"engine", END_TO_END, *ARTIFACTS}:
        return BackendError(f"there is no hop '{wanted}'", hint=f"name one of: {_judgeable(rundir)}")
    hint = f"name one of: {_judgeable(rundir)}; `segpipe doctor` tells what this machine can run"
    if wanted == "engine" and not reasons:
        reasons, hint = "there is no engine", rundir.how_to_make(BUILD)
        if lacking := any_contract(rundir).only_on_host:
            reasons, hint = f"the contract's {lacking} is done on CPUs only", f"name one of: {_judgeable(rundir)}"
    elif rundir.manifest.is_bundle:
        hint = "`segpipe doctor` tells what this machine can run; " + f"for a new engine {rundir.how_to_make('build')}"
    file = ARTIFACTS[wanted].file if wanted in ARTIFACTS else END_TO_END_GRAPH
    words = reasons or f"{rundir.path} does not hold {file}"
    return BackendError(f"no hop '{wanted}' could be judged here: {words}", hint=hint)


def _judgeable(rundir: RunDirectory) -> str:
    """What `--hop` takes for this run or bundle."""
    rows = deployed(rundir)
    whole = [END_TO_END] * holds_end_to_end(rundir)
    return ", ".join((*(row.name for row in rows), *whole, *["engine"] * any(row.is_engine for row in rows)))


def _needs_gpu(wanted: str) -> bool:
    return wanted == "engine" or (wanted in ARTIFACTS and ARTIFACTS[wanted].needs_gpu)


def judge_stored(rundir: RunDirectory, wanted: str) -> GateReport:
    """What `wanted` names, opened and judged."""
    stored = StoredReference(rundir)
    with OpenHops(rundir, any_contract(rundir)) as opened:
        opened.open_deployed(wanted)
        return judge_hops(rundir, stored, opened)


def judge_hops(rundir: RunDirectory, stored: StoredReference, opened: OpenHops) -> GateReport:
    """Every image of the stored reference through open hops; labels and activations as the gate found them."""
    contract = any_contract(rundir)
    gate = stored_report(rundir)
    peak, rounding = gate_peak(rundir, gate), stored.rounding()
    setup = Setup(contract, stored.index.settings, stored.index.batches, peak=peak, rounding=rounding)
    judge = Judge(setup, stored, opened.hops)
    for image in stored.images():
        judge.add(image)
    judge.finish()
    reports = hop_reports(judge, setup, {})
    return GateReport(
        reference=f"stored {stored.index.reference}",
        contract_sha256=contract.sha256,
        basis_sha256=stored.index.basis_sha256,
        images=images_of(judge),
        data_checks=gate.data_checks,
        hops=reports,
        not_judged=not_judged(opened.not_run),
        pictures=(),
        suspicions=(),
        network_seconds=round(judge.network_seconds, 3),
        measure_seconds=round(judge.measure_seconds, 3),
    )


def keep(rundir: RunDirectory, report: GateReport) -> list[str]:
    """Write a verdict of each hop into a file of its own; nothing of the run or bundle is touched.

    A pass on the stored images replaces no failed verdict of the gate, which may rest on all images; returns what
    stays failed.
    """
    rundir.refresh()
    if stored_index(rundir).basis_sha256 != report.basis_sha256:
        raise InputError("the gate ran anew meanwhile", hint="run the same command again")
    gate, overruled = stored_verdicts(rundir), []
    for name, hop in report.hops.items():
        alone = report.model_copy(update={"hops": {name: hop}, "not_judged": ()})
        (verdict,) = new_verdicts(alone)
        if any(old.overrules(verdict) for old in gate):
            overruled.append(f"{verdict.artifact} on {verdict.backend} ({verdict.device})")
            continue
        made = datetime.now(UTC).isoformat(timespec="seconds")
        local = LocalVerdict(made_utc=made, verdict=verdict, report=alone.model_dump(mode="json"))
        path = local_verdicts.write(rundir.path, _name(verdict), local.model_dump_json(indent=2).encode())
        _log.info("kept in %s", path)
    return overruled


def gate_peak(rundir: RunDirectory, gate: GateReport) -> Peak | None:
    """How large the gate found the values of the run's FP16 graph, which a bundle does not hold; what JSON could not
    hold is Inf."""
    held = rundir.record(EXPORT).outputs.get(FP16_GRAPH)
    found = [
        math.inf if check.value is None else check.value * FP16_MAX
        for hop in gate.hops.values()
        for check in hop.checks
        if hop.artifact == f"{EXPORT}/{FP16_GRAPH}"
        and (held is None or hop.artifact_sha256 == held.sha256)
        and (check.name, check.status != "not judged") == ("fp16_range", True)
    ]
    return Peak(max(found), f"{FP16_GRAPH} where the gate ran") if found else None


def _name(verdict: Verdict) -> str:
    """Of the file: another device, artifact, contract or basis is another file."""
    device = re.sub("[^a-z0-9]+", "-", verdict.device.lower()).strip("-")
    bound = (verdict.artifact_sha256, verdict.contract_sha256, verdict.basis_sha256, verdict.device)
    return f"{verdict.backend}-{device}-{sha256_of_bytes(' '.join(bound).encode())[:12]}"
