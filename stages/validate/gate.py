"""The core of the release gate: images through every hop, figures, verdicts, and the worst image as a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract import Contract
from segpipe.rundir import RunDirectory
from segpipe.verdict import Verdict
from stages.compare import Check, Comparison
from stages.config import Config
from stages.data import labels_of, open_split
from stages.validate.hops import Hop, TorchAnswer, open_hops, reference_answer

Sample = tuple[NDArray[Any], NDArray[Any]]  # frame and labels

_SEED = 1
_NOT_RUN = "engines are not run by this version; the graph it was built from is judged as hop 'fp16'"


@dataclass(frozen=True)
class Judgement:
    """What the gate found."""

    report: dict[str, Any]
    verdicts: tuple[Verdict, ...]
    figures: dict[str, Any]
    worst_png: bytes


@dataclass
class _Worst:
    """The image with most flips so far: frame, reference mask, candidate mask."""

    flips: int = -1
    images: tuple[NDArray[Any], ...] = ()


def judge_run(rundir: RunDirectory, config: Config, base: Path) -> Judgement:
    """Judge every hop that runs here; name those that do not."""
    from segpipe.runtime.opening import run_contract

    contract = run_contract(rundir)
    split = open_split(config, base, "val")
    indices = chosen(len(split), config.validate_.images)
    truth, worst = reference_answer(rundir), _Worst()
    with open_hops(rundir, config) as hops:
        compared = {hop.name: Comparison(len(contract.classes), config.validate_.boundary_px) for hop in hops}
        for index in indices:
            _compare(split.sample(index), truth, hops, compared, worst)
        checks = {hop.name: compared[hop.name].checks(config.validate_.limits) for hop in hops}
        verdicts = [_verdict(rundir, hop, checks[hop.name]) for hop in hops] + _unjudged_engines(rundir)
    report: dict[str, dict[str, Any]] = {
        name: {"figures": comparison.figures(), "checks": [vars(check) for check in checks[name]]}
        for name, comparison in compared.items()
    }
    figures = {
        "agreement": {name: entry["figures"]["agreement"] for name, entry in report.items()},
        "miou": {name: entry["figures"]["miou"] for name, entry in report.items()},
        "failed": [
            f"hop '{name}': {check.line()}" for name, hop in checks.items() for check in hop if check.status == "failed"
        ],
    }
    return Judgement({"hops": report}, tuple(verdicts), figures, _picture(worst, contract, labels_of(config).palette))


def chosen(count: int, wanted: int) -> list[int]:
    """Which images: all, or as many as wanted, the same ones every time."""
    if wanted >= count:
        return list(range(count))
    return sorted(np.random.default_rng(_SEED).permutation(count)[:wanted].tolist())


def _compare(
    sample: Sample, truth: TorchAnswer, hops: list[Hop], compared: dict[str, Comparison], worst: _Worst
) -> None:
    """One image through every hop."""
    frame, labels = sample
    scores, mask, margin = truth.scores(frame), truth.mask(frame), truth.margin(frame)
    for hop in hops:
        candidate = hop.answer.mask(frame)
        compared[hop.name].add_scores(scores, hop.answer.scores(frame))
        flips = compared[hop.name].add_masks(mask, candidate, labels, margin)
        if flips > worst.flips:
            worst.flips, worst.images = flips, (frame, mask, candidate)


def _verdict(rundir: RunDirectory, hop: Hop, checks: list[Check]) -> Verdict:
    failed = tuple(check.line() for check in checks if check.status == "failed")
    unjudged = tuple(check.line() for check in checks if check.status == "not judged")
    return Verdict(
        artifact=f"{hop.stage}/{hop.artifact}",
        artifact_sha256=rundir.record(hop.stage).outputs[hop.artifact].sha256,
        backend=hop.backend,
        device="cpu",
        contract_sha256=rundir.manifest.contract_sha256 or "",
        status="failed" if failed else "passed",
        reasons=failed or unjudged,
    )


def _unjudged_engines(rundir: RunDirectory) -> list[Verdict]:
    return [
        Verdict(
            artifact=f"build/{name}",
            artifact_sha256=output.sha256,
            backend="tensorrt-rtx" if "rtx" in name else "tensorrt",
            device="none",
            contract_sha256=rundir.manifest.contract_sha256 or "",
            status="not judged",
            reasons=(_NOT_RUN,),
        )
        for name, output in rundir.record("build").outputs.items()
    ]


def _picture(worst: _Worst, contract: Contract, palette: draw.Palette) -> bytes:
    """The image with most flips: frame, reference, candidate, and the flipped pixels in red."""
    frame, mask, candidate = worst.images
    image = draw.displayable(frame, contract.value_range)
    flips = image // 3
    flips[mask != candidate] = (255, 40, 40)
    row = [image, draw.colourise(mask, palette), draw.colourise(candidate, palette), flips]
    titles = ("frame", "PyTorch FP32", "candidate", f"{worst.flips} flipped pixels")
    sheet = draw.contact_sheet([row], titles, draw.legend(contract.classes, palette, 4 * image.shape[1]))
    encoded: bytes = cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes()
    return encoded
