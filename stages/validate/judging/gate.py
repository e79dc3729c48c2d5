"""The gate of a whole run: its images through every hop, then report, verdicts, pictures and the stored reference."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from segpipe.artifacts import ARTIFACTS, EXPORT, FP16_GRAPH, FP32_GRAPH, is_finer
from segpipe.contract.schema import FrameContract
from segpipe.errors import ArtifactDamagedError, ArtifactMissingError, ExportError, InputError
from segpipe.instances import class_contract
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import any_contract
from segpipe.runtime.trt.building import ShapeRange
from segpipe.verdict import Verdict, merged, stored_verdicts
from stages.config.root import Config, DeployConfig
from stages.data import labels_of, open_split
from stages.data.choosing import chosen
from stages.data.files import has_labels
from stages.graphs.input_shapes import shape_ranges
from stages.graphs.types import dimensions
from stages.results.figures import TrainFigures, ValidateFigures, read
from stages.results.gate import NO_LABELS, GateReport, Picture
from stages.results.quantisation import PAGE_NAME
from stages.validate.explaining.explain import explain_hop
from stages.validate.explaining.suspects import suspect_labels
from stages.validate.hops import opening, pytorch
from stages.validate.hops.hop import Hop
from stages.validate.hops.inputs import RESIZED, Image, Size, resized_beforehand, stress_images
from stages.validate.hops.rounded import half_peak
from stages.validate.hops.stored import Keeper
from stages.validate.judging.checks import Check, at_least
from stages.validate.judging.judge import Judge, Setup
from stages.validate.pages.page import html, markdown
from stages.validate.pages.pictures import Drawn, WorstImages
from stages.validate.pages.report import check_report, figures_of, hop_reports, images_of, new_verdicts, not_judged

PROBED = 4
"""Images on which the FP16 graph's activations are measured."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judgement:
    """What the gate found."""

    report: GateReport
    verdicts: tuple[Verdict, ...]
    figures: ValidateFigures
    files: dict[str, bytes]


def judge_run(rundir: RunDirectory, config: Config, base: Path, explain: bool = False) -> Judgement:
    """Judge every hop that runs here; name those that do not."""
    contract = any_contract(rundir)
    images = list_images(config, base)
    settings = config.validate_
    worst = WorstImages(settings.pictures, class_contract(contract), labels_of(config).palette)
    keeper = Keeper(settings.reference_images, contract, settings.large_margin)
    with opening.OpenHops(rundir, contract) as opened:
        reference = pytorch.open_everything(opened, rundir)
        setup = make_setup(rundir, config, [image.frame for image in islice(images(), PROBED)])
        setup = replace(setup, accuracy=True)
        judge = Judge(setup, reference.answer, opened.hops, worst, reference.rounded)
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
        by_name_only=tuple(hop.name for hop in opened.hops if _is_by_name_only(hop, config.deploy)),
        not_judged=not_judged(opened.not_run),
        pictures=tuple(map(_picture, range(settings.pictures), worst.sorted())),
        suspicions=suspicions,
        network_seconds=round(judge.network_seconds, 3),
        measure_seconds=round(judge.measure_seconds, 3),
    )
    verdicts = merged(kept_verdicts(rundir), new_verdicts(report), basis, rundir.manifest)
    quantised = PAGE_NAME in rundir.record(EXPORT).outputs
    files = keeper.files(reference.name, setup, judge.roundings())
    files |= _pages(report, worst.sorted(), verdicts, quantised)
    return Judgement(report, tuple(verdicts), figures_of(report), files)


def _is_by_name_only(hop: Hop, deploy: DeployConfig) -> bool:
    """Whether it computes less finely than [deploy] says. What stands for an engine counts as one."""
    row = ARTIFACTS.get(hop.backend)
    return not is_finer(hop.precision, deploy.cpu if row and not row.needs_gpu else deploy.gpu)


def kept_verdicts(rundir: RunDirectory) -> tuple[Verdict, ...]:
    """Those of the last validation, unless somebody changed them: then nothing of them is believed."""
    try:
        return stored_verdicts(rundir)
    except (ArtifactDamagedError, ArtifactMissingError, InputError) as error:
        _log.warning("verdicts of other machines are dropped: %s", error)
        return ()


def make_setup(rundir: RunDirectory, config: Config, frames: Sequence[NDArray[Any]]) -> Setup:
    """What judging needs: batches and sizes of the engine's profiles, and how large `frames` make the FP16 graph's
    activations."""
    contract = any_contract(rundir)
    graph = onnx.load_model_from_string(rundir.artifact_bytes(EXPORT, FP32_GRAPH)).graph
    profiles = shape_ranges(contract, config.build, dimensions(graph.input[0]))
    has_half = FP16_GRAPH in rundir.record(EXPORT).outputs
    half = rundir.artifact_bytes(EXPORT, FP16_GRAPH) if has_half else None
    return Setup(
        contract,
        config.validate_,
        tuple(sorted({shape[0] for found in profiles for shape in (found.typical, found.largest)} - {1})),
        () if contract.network_size else sizes_of(contract, profiles),
        None if half is None else half_peak(half, contract, frames),
    )


def sizes_of(contract: FrameContract, profiles: Sequence[ShapeRange]) -> tuple[Size, ...]:
    """Height and width of every shape in the profiles."""
    rows = 2 if contract.input_layout == "nchw" else 1
    shapes = (shape for found in profiles for shape in (found.smallest, found.typical, found.largest))
    return tuple(sorted({(shape[rows], shape[rows + 1]) for shape in shapes}))


def list_images(config: Config, base: Path) -> Any:
    """A function that reads the chosen images of the validation split, one at a time."""
    split, labelled = open_split(config, base, "val"), has_labels(config.data)
    indices = chosen(len(split), config.validate_.images)

    def read() -> Iterator[Image]:
        for index in indices:
            frame, labels = split.sample(index)
            yield Image(split.name(index), frame, labels if labelled else None)

    return read


def with_stress(images: Iterable[Image], setup: Setup) -> Iterator[Image]:
    """The images, then made-up ones of the first image's type."""
    first = None
    for image in images:
        first = first or image
        yield image
    if first is not None and setup.settings.stress:
        yield from stress_images(setup.contract, first.frame, setup.sizes)
        resized = resized_beforehand(setup.contract, first.frame)
        if resized is not None:
            yield Image(RESIZED, resized, stress=True)


def _explained(
    rundir: RunDirectory, judge: Judge, setup: Setup, reference: pytorch.Reference, always: bool
) -> dict[str, list[str]]:
    """Where each failed hop diverges; with `always` the others too."""
    found = {}
    for name, state in judge.states.items():
        if state.worst is None or not (always or state.differs(setup)):
            continue
        explanation = explain_hop(rundir, state, setup, reference)
        if explanation is not None:
            found[name] = explanation.lines()
    return found


def judge_labels(rundir: RunDirectory, judge: Judge, setup: Setup) -> tuple[list[Check], tuple[str, ...]]:
    """Whether the labels are those that the network was trained for, without which IoU means nothing, and whether the
    reference reaches the floors on them."""
    state = next(iter(judge.states.values()), None)
    if state is None:
        raise ExportError("no hop could be run on this machine", hint="pip install 'segpipe[cpu]'")
    masks, limits = state.measured.masks, setup.settings.limits
    trained = read(TrainFigures, rundir.manifest.stages)
    recorded = trained.val_miou if trained else None
    share = _share_of_recorded(masks.reference_miou(), recorded, limits.min_reference_miou_share)
    words = suspect_labels(masks.label_confusion()) if share.status == "failed" else ""
    return [share, *setup.gate.reference_accuracy(state.measured)], (words,) if words else ()


def _share_of_recorded(found: float | None, recorded: float | None, limit: float) -> Check:
    """The reference's mIoU on these labels, beside what training recorded."""
    name = "reference_miou_share"
    if found is None or not recorded:
        why_not = "training recorded no mIoU" if recorded is None else "training recorded an mIoU of 0"
        return at_least(name, None, limit, why_not=NO_LABELS if recorded else why_not)
    where = f"the reference reaches mIoU {found:.3f} on these labels, training recorded {recorded:.3f}"
    return at_least(name, found / recorded, limit, where)


def _picture(number: int, drawn: Drawn) -> Picture:
    file = "worst.png" if number == 0 else f"worst-{number + 1}.png"
    return Picture(file=file, hop=drawn.hop, image=drawn.image, flips=drawn.flips, flips_inside=drawn.flips_inside)


def _pages(report: GateReport, drawn: list[Drawn], verdicts: list[Verdict], quantised: bool) -> dict[str, bytes]:
    pngs = {picture.file: entry.png for picture, entry in zip(report.pictures, drawn, strict=True)}
    return pngs | {
        "gate.md": markdown(report, verdicts).encode(),
        "gate.html": html(report, verdicts, pngs, quantised).encode(),
    }
