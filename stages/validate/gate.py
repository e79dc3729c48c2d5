"""The gate of a whole run: its images through every hop, then report, verdicts, pictures and the stored reference."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from segpipe.errors import ExportError
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.verdict import Verdict, merged, stored_verdicts
from stages.config import Config
from stages.data import labels_of, open_split
from stages.validate import hops, torch_hops
from stages.validate.assemble import figures_of, has_failed, hop_reports, images_of, new_verdicts, not_judged
from stages.validate.checks import Check, at_least
from stages.validate.explain import explain_hop
from stages.validate.inputs import Image, chosen, stress_images
from stages.validate.judge import Judge, Setup
from stages.validate.page import html, markdown
from stages.validate.pictures import Drawn, Worst
from stages.validate.report import GateReport, Picture, check_report
from stages.validate.stored import Keeper
from stages.validate.suspects import suspect_labels

_PROBED = 4  # images on which an imported graph's activations are measured


@dataclass(frozen=True)
class Judgement:
    """What the gate found."""

    report: GateReport
    verdicts: tuple[Verdict, ...]
    figures: dict[str, Any]
    files: dict[str, bytes]


def judge_run(rundir: RunDirectory, config: Config, base: Path, explain: bool = False) -> Judgement:
    """Judge every hop that runs here; name those that do not."""
    contract = run_contract(rundir)
    images = list_images(config, base)
    settings = config.validate_
    worst = Worst(settings.pictures, contract, labels_of(config).palette)
    keeper = Keeper(settings.reference_images)
    with hops.OpenHops(rundir, contract) as opened:
        reference = torch_hops.open_everything(opened, rundir)
        peak = torch_hops.imported_peak(rundir, contract, [image.frame for image in islice(images(), _PROBED)])
        setup = Setup(contract, settings, config.build.max_batch, peak)
        judge = Judge(setup, reference.answer, opened.hops, worst)
        for image in with_stress(images(), setup):
            keeper.add(image, judge.add(image))
        judge.finish()
        explained = _explained(rundir, judge, setup, reference, explain)
        reports = hop_reports(judge, setup, explained)
    data_checks, suspicions = judge_labels(rundir, judge, setup)
    basis = keeper.basis_sha256(settings)
    report = GateReport(
        reference=reference.name,
        contract_sha256=contract.sha256,
        basis_sha256=basis,
        images=images_of(judge),
        data_checks=tuple(map(check_report, data_checks)),
        hops=reports,
        not_judged=not_judged(judge, opened.not_run),
        pictures=tuple(map(_picture, range(settings.pictures), worst.sorted())),
        suspicions=suspicions,
        network_seconds=round(judge.network_seconds, 3),
        measure_seconds=round(judge.measure_seconds, 3),
    )
    verdicts = merged(stored_verdicts(rundir), new_verdicts(report), basis, rundir.manifest)
    files = keeper.files(reference.name, setup) | _pages(report, worst.sorted(), verdicts)
    return Judgement(report, tuple(verdicts), figures_of(report), files)


def list_images(config: Config, base: Path) -> Any:
    """A function that reads the chosen images of the validation split, one at a time."""
    split = open_split(config, base, "val")
    indices = chosen(len(split), config.validate_.images)

    def read() -> Iterator[Image]:
        for index in indices:
            frame, labels = split.sample(index)
            yield Image(split.name(index), frame, labels)

    return read


def with_stress(images: Iterable[Image], setup: Setup) -> Iterator[Image]:
    """The images, then made-up ones of the first image's type."""
    first = None
    for image in images:
        first = first or image
        yield image
    if first is not None and setup.settings.stress:
        yield from stress_images(setup.contract, first.frame)


def _explained(
    rundir: RunDirectory, judge: Judge, setup: Setup, reference: torch_hops.Reference, always: bool
) -> dict[str, list[str]]:
    """Where each failed hop diverges; with `always` the others too."""
    found = {}
    for name, state in judge.states.items():
        if state.worst is None or state.broken or not (always or has_failed(state, setup)):
            continue
        explanation = explain_hop(rundir, state, setup, reference)
        if explanation is not None:
            found[name] = explanation.lines()
    return found


def judge_labels(rundir: RunDirectory, judge: Judge, setup: Setup) -> tuple[list[Check], tuple[str, ...]]:
    """Whether the labels are those that the network was trained for: else the IoU figures mean nothing."""
    state = next(iter(judge.states.values()), None)
    if state is None:
        raise ExportError("no hop could be run on this machine", hint="pip install 'segpipe[cpu]'")
    recorded = rundir.record("train").figures.get("val_miou") if "train" in rundir.manifest.stages else None
    found, limit = state.measured.masks.reference_miou(), setup.settings.limits.min_reference_miou_share
    name = "reference_miou_share"
    if not recorded or not state.measured.masks.has_labels:
        return [Check(name, None, limit, "not judged", "no labels, or training recorded no mIoU")], ()
    where = f"the reference reaches mIoU {found or 0:.3f} on these labels, training recorded {recorded:.3f}"
    check = at_least(name, (found or 0.0) / recorded, limit, where)
    words = suspect_labels(state.measured.masks.label_confusion()) if check.status == "failed" else ""
    return [check], (words,) if words else ()


def _picture(number: int, drawn: Drawn) -> Picture:
    file = "worst.png" if number == 0 else f"worst-{number + 1}.png"
    return Picture(file=file, hop=drawn.hop, image=drawn.image, flips=drawn.flips, flips_inside=drawn.flips_inside)


def _pages(report: GateReport, drawn: list[Drawn], verdicts: list[Verdict]) -> dict[str, bytes]:
    pngs = {picture.file: entry.png for picture, entry in zip(report.pictures, drawn, strict=True)}
    return pngs | {
        "gate.md": markdown(report, verdicts).encode(),
        "gate.html": html(report, verdicts, pngs).encode(),
    }
