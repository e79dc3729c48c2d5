"""Judging an artifact where PyTorch is not: against the stored reference, with the base install and a backend only."""

import logging
import math
import re

from segpipe.errors import BackendError, GateFailedError, InputError
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, Verdict, merged, stored_verdicts
from stages.compare_tensors import FP16_MAX
from stages.validate import REPORT, named
from stages.validate.assemble import figures_of, hop_reports, images_of, new_verdicts, not_judged
from stages.validate.checks import Peak
from stages.validate.hops import FP16_GRAPH, OpenHops
from stages.validate.judge import Judge, Setup
from stages.validate.report import GateReport, read_report
from stages.validate.stored import StoredReference, stored_index

_log = logging.getLogger(__name__)


def validate_hop(path: RunDirectory, wanted: str) -> list[str]:
    """Judge what `wanted` names ('engine' or a backend) and add its verdicts to the run's; returns lines to print."""
    rundir = RunDirectory(path.path, frozenset({STAGE}))
    report = rundir.at_one_moment(lambda: judge_stored(rundir, wanted))
    if not report.hops:
        reasons = "; ".join(f"{entry.artifact} on {entry.backend}: {entry.reason}" for entry in report.not_judged)
        raise BackendError(
            f"no hop '{wanted}' could be judged here: {reasons or 'the run holds no such artifact'}",
            hint="name 'engine' or one of the runtime's backends; `segpipe doctor` tells what this machine can run",
        )
    with rundir.writing():
        overruled = keep(rundir, report)
    failed = report.failed()
    for line in failed:
        _log.error("%s", line)
    if failed:
        raise GateFailedError(
            f"the release gate failed: {named(failed)}",
            hint="build the engine again, or run `segpipe validate` with --explain where PyTorch is installed",
        )
    if overruled:
        raise GateFailedError(
            f"passed on the stored images, but the gate failed it here on all its images: {'; '.join(overruled)}",
            hint="run `segpipe validate` where PyTorch is installed and read its report",
        )
    return [f"{hop.artifact} on {hop.backend} ({hop.device}): {hop.outcome}" for hop in report.hops.values()]


def judge_stored(rundir: RunDirectory, wanted: str) -> GateReport:
    """Every image of the stored reference through the wanted hops; labels and activations as the gate found them."""
    stored, contract = StoredReference(rundir), run_contract(rundir)
    gate = read_report(rundir.artifact_bytes(STAGE, REPORT), f"{STAGE}/{REPORT} of {rundir.path}")
    setup = Setup(contract, stored.index.settings, stored.index.batches, peak=gate_peak(rundir, gate))
    with OpenHops(rundir, contract) as opened:
        opened.open_deployed(wanted)
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
    """Add verdicts and report to the gate's record: same key, same inputs, so that nothing else becomes stale.

    A pass on the stored images replaces no failed verdict, which may rest on all images; returns what stays failed.
    """
    if stored_index(rundir).basis_sha256 != report.basis_sha256:
        raise InputError("the gate ran anew meanwhile", hint="run the same command again")
    record, stored = rundir.record(STAGE), stored_verdicts(rundir)
    new = new_verdicts(report)
    overruled = [verdict for verdict in new if any(_overrules(old, verdict) for old in stored)]
    verdicts = merged(
        stored, (verdict for verdict in new if verdict not in overruled), report.basis_sha256, rundir.manifest
    )
    files = {name: rundir.artifact_bytes(STAGE, name) for name in record.outputs}
    files[FILE_NAME] = VERDICTS.dump_json(tuple(verdicts), indent=2)
    files |= {_file_name(hop.backend, hop.device): report.model_dump_json(indent=2).encode()
              for hop in report.hops.values()}  # fmt: skip
    with rundir.step(STAGE, record.inputs, record.params) as step:
        for name, content in files.items():
            step.path(name).write_bytes(content)
        step.contract_sha256 = rundir.manifest.contract_sha256
        step.environment = record.environment
        step.figures = record.figures | {"elsewhere": figures_of(report)}
    return [f"{verdict.artifact} on {verdict.backend} ({verdict.device})" for verdict in overruled]


def _overrules(old: Verdict, new: Verdict) -> bool:
    """Whether a failed verdict stands against a pass of the same bytes, contract, images and limits."""
    same = (old.contract_sha256, old.basis_sha256) == (new.contract_sha256, new.basis_sha256)
    return same and old.is_about(new) and (old.status, new.status) == ("failed", "passed")


def gate_peak(rundir: RunDirectory, gate: GateReport) -> Peak | None:
    """How large the gate found the values of the FP16 graph that the run holds; what JSON could not hold is Inf."""
    if FP16_GRAPH not in rundir.record("export").outputs:
        return None
    sha256 = rundir.recorded("export", FP16_GRAPH).sha256
    found = [
        math.inf if check.value is None else check.value * FP16_MAX
        for hop in gate.hops.values()
        for check in hop.checks
        if hop.artifact_sha256 == sha256 and check.name == "fp16_range" and check.status != "not judged"
    ]
    return Peak(max(found), f"{FP16_GRAPH} where the gate ran") if found else None


def _file_name(backend: str, device: str) -> str:
    return f"hop-{backend}-{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
