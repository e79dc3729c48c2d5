"""report.json of the gate: its published schema, and filling it from what was measured.

`python -m stages.validate.report` writes the schema anew.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from stages.compare import MARGIN_EDGES, MaskComparison, TensorComparison, number, share
from stages.validate.checks import Check, Status
from stages.validate.judge import HopState, Repeat, Setup

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "gate-report.schema.json"

Finite = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]
"""JSON knows no NaN and no infinity: they are null, and the check's `line` says what they were."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckReport(_Part):
    """One limit held against one figure."""

    name: str
    value: Finite
    limit: float
    status: Status
    line: str


class TensorFigures(_Part):
    """Errors of scores against the reference (or the hop before)."""

    relative_l2: Finite
    max_abs_error: Finite
    mean_abs_error: Finite
    cosine: Finite
    psnr_db: Finite
    gain: Finite
    nan: int
    inf: int
    reference_range: tuple[Finite, Finite]
    candidate_range: tuple[Finite, Finite]
    share_of_fp16_range: Finite


class ClassFigures(_Part):
    """One class: its pixels in the reference, how many of them flipped, and its IoU against the labels."""

    name: str
    pixels: int
    flipped: int
    flipped_share: Finite
    became: str
    reference_iou: Finite
    candidate_iou: Finite


class MarginBin(_Part):
    """Flips whose margin is at least this many spreads of the reference's scores, and less than the next bin's."""

    at_least: float
    flips: int


class Figures(_Part):
    """What was measured on images."""

    images: int
    pixels: int
    agreement: Finite
    flips: int
    flips_inside: Finite
    flips_boundary: Finite
    large_margin_flips: int
    largest_flip_margin: Finite
    reference_miou: Finite
    miou: Finite
    scores: TensorFigures


class Before(_Part):
    """Against the hop before."""

    hop: str
    flips: int
    scores: TensorFigures


class Stress(_Part):
    """What was measured on made-up inputs."""

    inputs: int
    flips: int
    worst_relative_l2: Finite
    worst_input: str
    non_finite: int
    refused: dict[str, str]


class RepeatReport(_Part):
    """The same frame twice: what differed."""

    same_bytes: bool
    differing_pixels: int
    differing_scores: int
    largest_difference: Finite


class HopReport(_Part):
    """One judged hop."""

    artifact: str
    artifact_sha256: str
    backend: str
    device: str
    status: Status
    checks: tuple[CheckReport, ...]
    figures: Figures
    classes: tuple[ClassFigures, ...]
    flip_margins: tuple[MarginBin, ...]
    before: Before
    stress: Stress
    repeat: RepeatReport | None
    batch_worst_relative_l2: Finite
    suspicions: tuple[str, ...]
    diverges: tuple[str, ...]


class NotJudged(_Part):
    """An artifact that could not be run, with the backend's own reason."""

    artifact: str
    artifact_sha256: str
    backend: str
    reason: str


class Picture(_Part):
    """One of the worst images; its PNG lies beside the report."""

    file: str
    hop: str
    image: str
    flips: int
    flips_inside: int


class GateReport(_Part):
    """The whole file."""

    schema_version: Literal[1] = 1
    reference: str
    contract_sha256: str
    basis_sha256: str
    """Hash of the frames, labels and limits that this report rests on."""
    images: int
    data_checks: tuple[CheckReport, ...]
    hops: dict[str, HopReport]
    not_judged: tuple[NotJudged, ...]
    pictures: tuple[Picture, ...]
    suspicions: tuple[str, ...]
    network_seconds: float
    measure_seconds: float

    def failed(self) -> list[str]:
        """One line a failed limit."""
        lines = [f"data: {check.line}" for check in self.data_checks if check.status == "failed"]
        for name, hop in self.hops.items():
            lines += [f"hop '{name}': {check.line}" for check in hop.checks if check.status == "failed"]
        return lines


def hop_report(state: HopState, setup: Setup, suspicions: tuple[str, ...], diverges: tuple[str, ...]) -> HopReport:
    """Everything measured of one hop."""
    held = tuple(check_report(check) for check in state.checks(setup))
    hop, measured = state.hop, state.measured
    return HopReport(
        artifact=f"{hop.stage}/{hop.artifact}",
        artifact_sha256=hop.sha256,
        backend=hop.backend,
        device=hop.device,
        status="failed" if any(check.status == "failed" for check in held) else "passed",
        checks=held,
        figures=_figures(measured.masks, measured.tensors),
        classes=_classes(measured.masks, setup.contract.classes),
        flip_margins=tuple(
            MarginBin(at_least=edge, flips=int(count))
            for edge, count in zip(MARGIN_EDGES, measured.masks.margin_counts, strict=True)
        ),
        before=Before(hop=state.before_name, flips=state.before_flips, scores=tensor_figures(state.before)),
        stress=Stress(
            inputs=measured.stress_masks.images,
            flips=measured.stress_masks.flips,
            worst_relative_l2=measured.stress.worst_relative_l2,
            worst_input=measured.stress.worst_at,
            non_finite=measured.stress.non_finite,
            refused=state.stress_errors,
        ),
        repeat=_repeat(state.repeats[0]) if state.repeats else None,
        batch_worst_relative_l2=measured.batches.worst_relative_l2 if measured.batches.elements else None,
        suspicions=suspicions,
        diverges=diverges,
    )


def check_report(check: Check) -> CheckReport:
    """A check as the report keeps it."""
    return CheckReport(name=check.name, value=check.value, limit=check.limit, status=check.status, line=check.line())


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


def schema() -> dict[str, Any]:
    """JSON Schema of report.json."""
    return GateReport.model_json_schema(mode="serialization")


def _repeat(repeat: Repeat) -> RepeatReport:
    return RepeatReport(
        same_bytes=repeat.same,
        differing_pixels=repeat.differing_pixels,
        differing_scores=repeat.differing_scores,
        largest_difference=repeat.largest_difference,
    )


def _figures(masks: MaskComparison, tensors: TensorComparison) -> Figures:
    inside_flips, inside = masks.flips - masks.band_flips, masks.pixels - masks.band_pixels
    return Figures(
        images=masks.images,
        pixels=masks.pixels,
        agreement=share(masks.pixels - masks.flips, masks.pixels),
        flips=masks.flips,
        flips_inside=share(inside_flips, inside),
        flips_boundary=share(masks.band_flips, masks.band_pixels),
        large_margin_flips=masks.large_flips,
        largest_flip_margin=masks.largest_margin,
        reference_miou=masks.reference_miou() if masks.has_labels else None,
        miou=masks.candidate_miou() if masks.has_labels else None,
        scores=tensor_figures(tensors),
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


if __name__ == "__main__":
    SCHEMA_FILE.parent.mkdir(exist_ok=True)
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=2) + "\n")
