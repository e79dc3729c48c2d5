"""Judging an artifact where PyTorch is not: against the stored reference, with the base install and a backend only."""

import logging
import re

from segpipe.errors import BackendError, GateFailedError
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.verdict import FILE_NAME, STAGE, VERDICTS, merged, stored_verdicts
from stages.validate import named
from stages.validate.assemble import figures_of, hop_reports, images_of, new_verdicts, not_judged
from stages.validate.hops import OpenHops
from stages.validate.judge import Judge, Setup
from stages.validate.report import GateReport
from stages.validate.stored import StoredReference

_log = logging.getLogger(__name__)


def validate_hop(path: RunDirectory, wanted: str) -> list[str]:
    """Judge what `wanted` names ('engine' or a backend) and add its verdicts to the run's; returns lines to print."""
    rundir = RunDirectory(path.path, frozenset({STAGE}))
    report = judge_stored(rundir, wanted)
    if not report.hops:
        reasons = "; ".join(f"{entry.artifact} on {entry.backend}: {entry.reason}" for entry in report.not_judged)
        raise BackendError(
            f"no hop '{wanted}' could be judged here: {reasons or 'the run holds no such artifact'}",
            hint="name 'engine' or one of the runtime's backends; `segpipe doctor` tells what this machine can run",
        )
    with rundir.writing():
        keep(rundir, report)
    failed = report.failed()
    for line in failed:
        _log.error("%s", line)
    if failed:
        raise GateFailedError(
            f"the release gate failed: {named(failed)}",
            hint="build the engine again, or run `segpipe validate` with --explain where PyTorch is installed",
        )
    return [f"{hop.artifact} on {hop.backend} ({hop.device}): {hop.outcome}" for hop in report.hops.values()]


def judge_stored(rundir: RunDirectory, wanted: str) -> GateReport:
    """Every image of the stored reference through the wanted hops."""
    stored, contract = StoredReference(rundir), run_contract(rundir)
    setup = Setup(contract, stored.index.settings, stored.index.batches)
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
        data_checks=(),
        hops=reports,
        not_judged=not_judged(opened.not_run),
        pictures=(),
        suspicions=(),
        network_seconds=round(judge.network_seconds, 3),
        measure_seconds=round(judge.measure_seconds, 3),
    )


def keep(rundir: RunDirectory, report: GateReport) -> None:
    """Add verdicts and report to the gate's record: same key, same inputs, so that nothing else becomes stale."""
    record = rundir.record(STAGE)
    verdicts = merged(stored_verdicts(rundir), new_verdicts(report), report.basis_sha256, rundir.manifest)
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


def _file_name(backend: str, device: str) -> str:
    return f"hop-{backend}-{re.sub('[^a-z0-9]+', '-', device.lower())}.json"
