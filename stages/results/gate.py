"""report.json of the gate: its published schema.

`python -m stages.results.gate` writes the schema anew.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import InputError

Status = Literal["passed", "failed", "not judged"]
ACCURACY = frozenset({"miou", "class_iou", "reference_miou", "reference_class_iou"})
"""Checks of accuracy; all others are of fidelity."""
NO_LABELS = "no labels"

SCHEMA_FILE = Path(__file__).parents[1] / "schemas" / "gate-report.schema.json"

Finite = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]
"""JSON knows no NaN and no infinity: they are null, and the check's `line` says what they were."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CheckReport(_Part):
    """One limit compared with one figure."""

    name: str
    value: Finite
    limit: float
    status: Status
    line: str
    why_not: str = ""
    """Why it could not be judged."""


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


class DropFigures(_Part):
    """How far the mean IoU fell, and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class Figures(_Part):
    """What was measured on images."""

    images: int
    pixels: int
    agreement: Finite
    flips: int
    flips_inside: Finite
    flips_boundary: Finite
    large_margin_flips: int | None
    """null where the network gives no scores, and so no margins."""
    largest_flip_margin: Finite
    worst_image: str
    worst_image_agreement: Finite
    reference_miou: Finite
    miou: Finite
    reference_miou_of_all: Finite = None
    """With the classes that are not scored, where there are some."""
    miou_of_all: Finite = None
    miou_drop: DropFigures | None = None
    """null for too few labelled images."""
    reference_calibration_error: Finite = None
    calibration_error: Finite = None
    """Of hops in 8 bits: how far their confidence is from being right; and the reference's, on the same pixels."""
    scores: TensorFigures


class ThingAccuracy(_Part):
    """Of things against the labels. Networks for boxes alone have no figure but that of boxes."""

    mask_ap: Finite
    box_ap: Finite
    pq: Finite
    miou: Finite


class ThingFigures(_Part):
    """Things that a hop tells one by one, beside the reference's."""

    pairs: int
    """Found by both."""
    lost: int
    lost_at: str
    """The first frame in which the hop did not find a sure one of the reference's; empty without such a frame."""
    extra: int
    extra_at: str
    """Likewise, of a sure one that the reference has not."""
    mean_iou: Finite
    reference: ThingAccuracy | None
    """null without labels, or where what counts average precision is not installed."""
    hop: ThingAccuracy | None


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
    suspicions: tuple[str, ...]
    diverges: tuple[str, ...]
    things: ThingFigures | None = None
    """null for networks for masks."""

    @property
    def outcome(self) -> str:
        """The verdict in words: `passed; not judged: iou_drop, miou (no labels)`."""
        reasons: dict[str, list[str]] = {}
        for check in self.unjudged:
            reasons.setdefault(check.why_not, []).append(check.name)
        unjudged = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
        return f"{self.status}; not judged: {', '.join(unjudged)}" if unjudged else self.status

    @property
    def unjudged(self) -> list[CheckReport]:
        """Limits that nothing could be compared with."""
        return [check for check in self.checks if check.status == "not judged"]


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
    by_name_only: tuple[str, ...] = ()
    """Hops that compute less finely than [deploy] says. They run only for those who ask, so they fail no run."""
    not_judged: tuple[NotJudged, ...]
    pictures: tuple[Picture, ...]
    suspicions: tuple[str, ...]
    network_seconds: float
    measure_seconds: float

    @property
    def status(self) -> Status:
        """Failed where any limit failed; passed where something was judged and all of it passed."""
        if self.failed():
            return "failed"
        counted = (hop for name, hop in self.hops.items() if name not in self.by_name_only)
        return "passed" if any(hop.status == "passed" for hop in counted) else "not judged"

    @property
    def judged(self) -> str:
        """What the verdict is about: being the same network, being a good one, or both."""
        fidelity = any(hop.status != "not judged" for hop in self.hops.values())
        found = [check for hop in self.hops.values() for check in hop.checks] + list(self.data_checks)
        if any(check.name in ACCURACY and check.status != "not judged" for check in found):
            return "fidelity and accuracy" if fidelity else "accuracy, not fidelity"
        unlabelled = all(hop.figures.miou is None for hop in self.hops.values())
        why = NO_LABELS if unlabelled else "no floor is set (validate.limits.min_miou)"
        return f"{'fidelity, ' if fidelity else ''}not accuracy: {why}"

    @property
    def warnings(self) -> list[str]:
        """What fails no run: hops that run only when asked for; one class on every image where labels hold others."""
        return [*self._failed_by_name(), *self._one_class()]

    def _failed_by_name(self) -> list[str]:
        failed = {name: [c.name for c in self.hops[name].checks if c.status == "failed"] for name in self.by_name_only}
        return [
            f"hop '{name}' failed ({', '.join(checks)}): it stays closed, also to who asks for it"
            for name, checks in failed.items()
            if checks
        ]

    def _one_class(self) -> list[str]:
        classes = next(iter(self.hops.values())).classes if self.hops else ()
        answered = [one.name for one in classes if one.pixels]
        concerned = [one for one in classes if one.reference_iou is not None]
        if len(classes) < 2 or len(answered) != 1 or len(concerned) == 1:
            return []
        return [f"the network answers '{answered[0]}' on every image: train longer or check the labels"]

    def failed(self) -> list[str]:
        """One line a failed limit, of what runs without being asked for."""
        lines = [f"data: {check.line}" for check in self.data_checks if check.status == "failed"]
        for name, hop in self.hops.items():
            if name not in self.by_name_only:
                lines += [f"hop '{name}': {check.line}" for check in hop.checks if check.status == "failed"]
        return lines

    def summary(self) -> list[str]:
        """What was judged, a line a hop with the limits that nothing could be compared with, and what did not run."""
        lines = [f"hop '{name}' on {hop.backend} ({hop.device}): {hop.outcome}" for name, hop in self.hops.items()]
        lines += [f"data: {check.line}" for check in self.data_checks if check.status == "not judged"]
        warnings = [f"validate: warning: {line}" for line in self.warnings]
        return [f"validate: {self.status} ({self.judged})", *warnings, *lines, *self._not_here()]

    def _not_here(self) -> list[str]:
        """One line for all that did not run, without the hints, which the report keeps."""
        backends: dict[str, list[str]] = {}
        for entry in self.not_judged:
            backends.setdefault(entry.reason.removeprefix("not run here: ").partition(". ")[0], []).append(
                entry.backend
            )
        parts = [f"{', '.join(names)} ({reason})" for reason, names in backends.items()]
        return [f"validate: not judged here: {'; '.join(parts)}"] if parts else []


_FORM = Form("gate report", TypeAdapter(GateReport), InputError)


def read_report(data: bytes, name: str, hint: str) -> GateReport:
    """A stored report, or one line that says what is wrong with it."""
    return _FORM.read(data, name, hint)


def figure(value: float | None) -> str:
    """A number for a table."""
    return "-" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share for a table."""
    return "-" if value is None else f"{value:.4%}"


def schema() -> dict[str, Any]:
    """JSON Schema of report.json."""
    return GateReport.model_json_schema(mode="serialization")


if __name__ == "__main__":
    SCHEMA_FILE.parent.mkdir(exist_ok=True)
    SCHEMA_FILE.write_text(json.dumps(schema(), indent=2) + "\n")
