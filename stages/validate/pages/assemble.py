"""From what was measured to reports of hops, verdicts and the manifest's figures. Light: no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from segpipe.verdict import Verdict
from stages.results.figures import ValidateFigures
from stages.results.gate import GateReport, HopReport, NotJudged
from stages.validate.explaining.suspects import suspect
from stages.validate.hops.hop import NotRun
from stages.validate.judging.judge import Judge, Setup
from stages.validate.pages.filling import hop_report


def new_verdicts(report: GateReport) -> list[Verdict]:
    """One verdict for each hop and for each artifact that was not run. Data that is wrong fails every hop."""
    data = tuple(check.line for check in report.data_checks if check.status == "failed")
    bound = {"contract_sha256": report.contract_sha256, "basis_sha256": report.basis_sha256}
    verdicts = [
        Verdict(
            artifact=hop.artifact,
            artifact_sha256=hop.artifact_sha256,
            backend=hop.backend,
            device=hop.device,
            status="failed" if data else hop.status,
            reasons=data + tuple(check.line for check in hop.checks if check.status != "passed"),
            **bound,
        )
        for hop in report.hops.values()
    ]
    verdicts += [
        Verdict(
            artifact=entry.artifact,
            artifact_sha256=entry.artifact_sha256,
            backend=entry.backend,
            device="none",
            status="not judged",
            reasons=(entry.reason,),
            **bound,
        )
        for entry in report.not_judged
    ]
    return verdicts


def figures_of(report: GateReport) -> ValidateFigures:
    """What the manifest keeps."""
    hops = report.hops
    warned: dict[str, Any] = {"warnings": tuple(report.warnings)} if report.warnings else {}
    return ValidateFigures(
        agreement={name: hop.figures.agreement for name, hop in hops.items()},
        miou={name: hop.figures.miou for name, hop in hops.items()},
        failed=tuple(report.failed()),
        status=report.status,
        judged=report.judged.partition(":")[0],
        unjudged={name: tuple(check.name for check in hop.unjudged) for name, hop in hops.items() if hop.unjudged},
        suspicions=(*report.suspicions, *(text for hop in hops.values() for text in hop.suspicions)),
        diverges=tuple(text for hop in hops.values() for text in hop.diverges),
        **warned,
    )


def not_judged(not_run: Sequence[NotRun]) -> tuple[NotJudged, ...]:
    """Artifacts that could not be opened here."""
    return tuple(
        NotJudged(artifact=entry.artifact, artifact_sha256=entry.sha256, backend=entry.backend, reason=entry.reason)
        for entry in not_run
    )


def images_of(judge: Judge) -> int:
    """Images that went through, stress inputs apart."""
    return max((state.measured.masks.images for state in judge.states.values()), default=0)


def hop_reports(judge: Judge, setup: Setup, explained: Mapping[str, Sequence[str]]) -> dict[str, HopReport]:
    """A report of every hop."""
    reports = {}
    for name, state in judge.states.items():
        suspicions = suspect(state, setup.contract.classes) if state.differs(setup) else ()
        reports[name] = hop_report(state, setup, suspicions, tuple(explained.get(name, ())))
    return reports
