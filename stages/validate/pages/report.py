"""From what was measured to the gate's report, its verdicts and the manifest's figures. Light: no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from segpipe.instance_metrics import InstanceFigures
from segpipe.verdict import Verdict
from stages.measuring.masks import MARGIN_EDGES, MaskComparison, number, share
from stages.measuring.tensors import TensorComparison
from stages.measuring.things import ThingsComparison
from stages.results.figures import ValidateFigures
from stages.results.gate import (
    Before,
    CheckReport,
    ClassFigures,
    DropFigures,
    Figures,
    GateReport,
    HopReport,
    MarginBin,
    NotJudged,
    RepeatReport,
    Stress,
    TensorFigures,
    ThingAccuracy,
    ThingFigures,
)
from stages.validate.explaining.suspects import suspect
from stages.validate.hops.hop import NotRun
from stages.validate.judging.again import Repeat
from stages.validate.judging.checks import Check, Measured, verdict_of
from stages.validate.judging.judge import HopState, Judge, Setup


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
        suspicions = suspect(state, setup.contract) if state.differs(setup) else ()
        reports[name] = _hop_report(state, setup, suspicions, tuple(explained.get(name, ())))
    return reports


def _hop_report(state: HopState, setup: Setup, suspicions: tuple[str, ...], diverges: tuple[str, ...]) -> HopReport:
    """Everything measured of one hop."""
    held = tuple(check_report(check) for check in state.checks(setup))
    hop, measured = state.hop, state.measured
    return HopReport(
        artifact=f"{hop.stage}/{hop.artifact}",
        artifact_sha256=hop.sha256,
        backend=hop.backend,
        device=hop.device,
        status=verdict_of(held),
        checks=held,
        figures=_figures(measured),
        classes=_classes(measured.masks, setup.contract.classes),
        flip_margins=tuple(
            MarginBin(at_least=edge, flips=int(count))
            for edge, count in zip(MARGIN_EDGES, measured.masks.margin_counts, strict=True)
        ),
        before=Before(hop=state.before_name, flips=state.before_masks.flips, scores=tensor_figures(state.before)),
        stress=Stress(
            inputs=measured.stress_masks.images,
            flips=measured.stress_masks.flips,
            worst_relative_l2=measured.stress.worst_relative_l2,
            worst_input=measured.stress.worst_at,
            non_finite=measured.stress.non_finite,
            refused=state.stress_errors,
        ),
        repeat=_repeat(state.repeats[0]) if state.repeats else None,
        suspicions=suspicions,
        diverges=diverges,
        things=None if measured.things is None else _things(measured.things),
    )


def check_report(check: Check) -> CheckReport:
    """A check as the report keeps it."""
    return CheckReport(
        name=check.name,
        value=check.value,
        limit=check.limit,
        status=check.status,
        line=check.line(),
        why_not=check.why_not,
    )


def tensor_figures(tensors: TensorComparison) -> TensorFigures:
    """All figures of a comparison of scores."""
    return TensorFigures(
        relative_l2=tensors.relative_l2,
        max_abs_error=tensors.max_abs_error,
        mean_abs_error=tensors.mean_abs_error,
        cosine=tensors.cosine,
        psnr_db=tensors.psnr_db,
        gain=tensors.gain,
        nan=tensors.nan,
        inf=tensors.inf,
        reference_range=tensors.reference_range,
        candidate_range=tensors.candidate_range,
        share_of_fp16_range=tensors.fp16_share,
    )


def _repeat(repeat: Repeat) -> RepeatReport:
    return RepeatReport(
        same_bytes=repeat.same,
        differing_pixels=repeat.differing_pixels,
        differing_scores=repeat.differing_scores,
        largest_difference=repeat.largest_difference,
    )


def _figures(measured: Measured) -> Figures:
    masks, drop = measured.masks, measured.masks.miou_drop()
    inside_flips, inside = masks.flips - masks.band_flips, masks.pixels - masks.band_pixels
    names = ("reference_miou_of_all", "miou_of_all")
    of_all = dict(zip(names, masks.mious_of_all(), strict=True)) if masks.shape.unscored else {}
    return Figures(
        images=masks.images,
        pixels=masks.pixels,
        agreement=share(masks.pixels - masks.flips, masks.pixels),
        flips=masks.flips,
        flips_inside=share(inside_flips, inside),
        flips_boundary=share(masks.band_flips, masks.band_pixels),
        large_margin_flips=masks.large_flips if masks.has_margins else None,
        largest_flip_margin=masks.largest_margin if masks.has_margins else None,
        worst_image=masks.worst_at,
        worst_image_agreement=masks.worst_agreement if masks.images else None,
        reference_miou=masks.reference_miou(),
        miou=masks.candidate_miou(),
        **of_all,
        miou_drop=None if drop is None else DropFigures(value=drop.value, low=drop.low, high=drop.high),
        reference_calibration_error=measured.certainty.reference.error,
        calibration_error=measured.certainty.hop.error,
        scores=tensor_figures(measured.tensors),
    )


def _things(found: ThingsComparison) -> ThingFigures:
    reference, hop = (_thing_accuracy(figures) for figures in found.accuracy() or (None, None))
    return ThingFigures(
        pairs=found.pairs,
        lost=found.lost,
        lost_at=found.lost_at,
        extra=found.extra,
        extra_at=found.extra_at,
        mean_iou=found.mean_iou,
        reference=reference,
        hop=hop,
    )


def _thing_accuracy(figures: InstanceFigures | None) -> ThingAccuracy | None:
    if figures is None:
        return None
    return ThingAccuracy(
        mask_ap=figures.masks.get("ap"),
        box_ap=figures.boxes.get("ap"),
        pq=figures.panoptic.get("pq"),
        miou=figures.pixels.get("miou"),
    )


def _classes(masks: MaskComparison, names: tuple[str, ...]) -> tuple[ClassFigures, ...]:
    reference, candidate = masks.ious()
    every = (*names, "no class")
    return tuple(
        ClassFigures(
            name=name,
            pixels=int(masks.class_pixels[index]),
            flipped=(flipped := int(masks.pairs[index].sum())),
            flipped_share=share(flipped, int(masks.class_pixels[index])),
            became=every[int(masks.pairs[index].argmax())] if flipped else "",
            reference_iou=number(reference[index]),
            candidate_iou=number(candidate[index]),
        )
        for index, name in enumerate(names)
    )
