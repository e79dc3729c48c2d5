"""The figures that each stage leaves in its record, typed, with what they are for a person: a headline and lines.

Older versions left less and newer ones leave more: unknown fields are passed over, and figures that this version cannot
read are those of no stage: `read` answers None.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, RootModel, TypeAdapter, ValidationError

from segpipe.errors import ManifestError
from segpipe.metrics import mean_in_words
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.manifest import FILE_NAME, StageRecord
from segpipe.runtime.request import BuiltFor
from stages.measuring.rounds import Estimate, in_words


class StageFigures:
    """What all of them answer; a stage that tells nothing leaves it at that."""

    stage: ClassVar[str]

    def headline(self) -> str:
        """One line for `segpipe show`."""
        return ""

    def lines(self) -> Iterator[str]:
        """What is said of the stage when a run ends."""
        return iter(())

    def as_record(self) -> dict[str, Any]:
        """For the manifest: what was given, and no defaults."""
        raise NotImplementedError


class _Kept(BaseModel, StageFigures):
    model_config = ConfigDict(frozen=True)

    def as_record(self) -> dict[str, Any]:
        """For the manifest: what was given, and no defaults."""
        return self.model_dump(mode="json", exclude_unset=True)


class ClassScores(_Kept):
    """One class on held-out frames; None where they do not hold it."""

    iou: float | None = None
    f1: float | None = None
    precision: float | None = None
    recall: float | None = None


class Distilled(_Kept):
    """Who taught a network, and how."""

    teacher: str
    """Name of its run."""
    kind: str
    teacher_sha256: str = ""
    teacher_val_miou: float | None = None
    """On the frames that chose the student's weights."""

    def plain(self) -> str:
        """In words."""
        known = "" if self.teacher_val_miou is None else f", whose val mIoU is {self.teacher_val_miou:.4f}"
        return f"distilled ({self.kind}) from {self.teacher}{known}"


class Pruned(_Kept):
    """What was cut out of a network, and what that cost beside a control that was trained on as long."""

    macs_wanted: float
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    control_val_miou: float | None = None
    control_test_miou: float | None = None
    """Of the unpruned control, on the split that the network is measured on."""
    kept: dict[str, tuple[str, ...]] = {}
    """Layers that keep their channels, by the reason."""
    taught: bool = False
    """Whether the unpruned network taught it."""

    @property
    def share(self) -> float:
        """Of the MACs, what is left."""
        return self.macs_after / self.macs_before

    def plain(self) -> str:
        """In words."""
        control = "" if self.control_test_miou is None else f"; unpruned control: mIoU {self.control_test_miou:.4f}"
        weights = self.parameters_after / self.parameters_before
        taught = ", taught by the unpruned network" if self.taught else ""
        return f"pruned to {self.share:.0%} of the MACs and {weights:.0%} of the weights{taught}{control}"


class ForInt8(_Kept):
    """A training that went on with everything rounded: how it began, and what it reached rounded. The network's own
    figures are those of its float twin."""

    epochs: int = 0
    layers: int = 0
    before_val_miou: float | None = None
    before_test_miou: float | None = None
    """Of the float network that it began with."""
    val_miou: float | None = None
    test_miou: float | None = None
    """Rounded as in training; export's graphs are judged by the gate."""

    def plain(self) -> str:
        """In words."""
        found = "" if self.test_miou is None else f": mIoU {self.test_miou:.4f} rounded"
        before = "" if self.before_test_miou is None else f", {self.before_test_miou:.4f} in floats before"
        return f"trained for INT8 ({self.epochs} epochs, {self.layers} layers){found}{before}"


class TrainFigures(_Kept):
    """The best weights by validation, measured on the test split."""

    stage = "train"

    val_miou: float | None = None
    best_epoch: int | None = None
    epochs: int | None = None
    test_split: str = "test"
    """Where the data have no test split: val, which also chose the weights."""
    test_miou: float | None = None
    unscored: tuple[str, ...] = ()
    """Classes that no mean counts; both means over all classes stand beside the others then."""
    val_miou_of_all: float | None = None
    test_miou_of_all: float | None = None
    test_pixel_accuracy: float | None = None
    test_classes: dict[str, ClassScores] = {}
    val_ap: float | None = None
    """Average precision, which chose the weights of networks for things."""
    test_things: dict[str, dict[str, float | None]] = {}
    """Of networks for things: average precision of `masks` and `boxes`, and `panoptic` quality."""
    adopted: dict[str, Any] | None = None
    """Where the weights come from (`stages.models.adopted.Adopted`) that were trained elsewhere."""
    pretrained: dict[str, Any] | None = None
    """What published weights filled (`stages.models.pretrained.MatchReport`)."""
    distilled: Distilled | None = None
    """Where a teacher helped."""
    pruned: Pruned | None = None
    """Where channels were cut out."""
    for_int8: ForInt8 | None = None
    """Where training went on for INT8."""

    @property
    def frames(self) -> str:
        """What accuracy was measured on, in words."""
        return "held-out frames" if self.test_split == "test" else "frames of val, for want of a test split"

    def headline(self) -> str:
        """Accuracy on held-out frames, or on those of val where there are no others."""
        origin = f"adopted {self.adopted.get('file', '')}: " if self.adopted else ""
        taught = "".join(f", {how.plain()}" for how in (self.distilled, self.pruned, self.for_int8) if how)
        things = f"{self.things()}, " if self.test_things else ""
        return "" if self.test_miou is None else f"{origin}{self.test_split} {things}{self.mean()}{taught}"

    def lines(self) -> Iterator[str]:
        """The same, in words."""
        if self.test_miou is not None:
            yield f"accuracy    {self.mean()} on {self.frames}"
        if self.test_things:
            yield f"things      {self.things()} on {self.frames}"
        if self.distilled is not None:
            yield f"teacher     {self.distilled.plain()}"
        if self.pruned is not None:
            yield f"pruning     {self.pruned.plain()}"
            yield from (f"            {why}: {', '.join(names)}" for why, names in self.pruned.kept.items())
        if self.for_int8 is not None:
            yield f"int8        {self.for_int8.plain()}"

    def things(self) -> str:
        """Average precision and panoptic quality in words; empty for networks for masks."""
        named = {"mask AP": ("masks", "ap"), "box AP": ("boxes", "ap"), "PQ": ("panoptic", "pq")}
        known = {name: self.test_things.get(group, {}).get(key) for name, (group, key) in named.items()}
        return ", ".join(f"{name} {value:.4f}" for name, value in known.items() if value is not None)

    def mean(self) -> str:
        """The mean IoU on these frames, and where some classes are not scored that over all."""
        return "" if self.test_miou is None else mean_in_words(self.test_miou, self.test_miou_of_all, self.unscored)


class ImportFigures(_Kept):
    """Nothing is measured of what comes from elsewhere."""

    stage = "import"


class ExportFigures(_Kept):
    """Both graphs."""

    stage = "export"

    parameters: int | None = None
    opset: int | None = None
    worst_relative_error: float | None = None
    tensors_compared: int | None = None
    fp16_size_ratio: float | None = None
    fp32_islands: int | None = None
    fp16_relative_error: float | None = None
    fp16_agreement: float | None = None
    quantisable_layers: int | None = None
    int8_kept: int | None = None
    """Of them, in floats."""
    int8_noise_db: float | None = None
    int8_size_ratio: float | None = None
    fp8_kept: int | None = None
    fp8_noise_db: float | None = None
    fp8_size_ratio: float | None = None

    def headline(self) -> str:
        """What fewer bits save."""
        sizes = {"FP16": self.fp16_size_ratio, "FP8": self.fp8_size_ratio, "INT8": self.int8_size_ratio}
        parts = [f"{name} file {ratio:.0%}" for name, ratio in sizes.items() if ratio is not None]
        return f"{', '.join(parts)} of FP32" if parts else ""


class EngineFigures(_Kept):
    """One engine."""

    fp16_share: float
    compute_layers: int
    engine_bytes: int
    fp32_island_layers: int | None = None
    int8_share: float | None = None
    int8_layers: int | None = None
    fp8_share: float | None = None
    fp8_layers: int | None = None
    fp16_engine_bytes: int | None = None
    """Of the FP16 engine that one of 8 bits must not be larger than."""
    inspected_layers: int | None = None
    inspected_fp16_share: float | None = None
    seconds: float | None = None
    profiles: list[dict[str, Any]] = []
    workspace_limit_bytes: int | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    warnings: int = 0
    built_for: BuiltFor | None = None

    def share(self) -> str:
        """How much of it is in its precision."""
        kind, share, _ = self._main()
        return f"{share:.0%} {kind}"

    def plain(self) -> str:
        """Its precision and size."""
        kind, share, layers = self._main()
        told = f"{share:.0%}" if layers is None else f"{layers}"
        return f"{told} of {self.compute_layers} compute layers in {kind}, {self.engine_bytes / 1e6:.1f} MB"

    def _main(self) -> tuple[str, float, int | None]:
        """The precision that it was built for, the share of its layers, and for 8 bits how many that are."""
        if self.fp8_share is not None:
            return "FP8", self.fp8_share, self.fp8_layers
        if self.int8_share is not None:
            return "INT8", self.int8_share, self.int8_layers
        return "FP16", self.fp16_share, None


class BuildFigures(RootModel[dict[str, EngineFigures]], StageFigures):
    """Engines by their backend."""

    stage: ClassVar[str] = "build"

    def as_record(self) -> dict[str, Any]:
        """For the manifest."""
        return {name: engine.as_record() for name, engine in self.root.items()}

    def headline(self) -> str:
        """How much of each is FP16."""
        engines = (f"{name} {engine.share()}" for name, engine in self.root.items())
        return ", ".join(engines) or "no engines"

    def lines(self) -> Iterator[str]:
        """Each engine's precision and size."""
        engines = "; ".join(f"{name}: {engine.plain()}" for name, engine in self.root.items())
        yield f"engine      {engines or 'none built'}"


class ValidateFigures(_Kept):
    """What the release gate found, by hop."""

    stage = "validate"

    failed: tuple[str, ...]
    """A line a failed limit. Without it nothing passed."""
    agreement: dict[str, float | None]
    miou: dict[str, float | None] = {}
    status: str = "passed"
    judged: str = ""
    unjudged: dict[str, tuple[str, ...]] = {}
    warnings: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()
    diverges: tuple[str, ...] = ()

    @property
    def all_equal(self) -> bool:
        """Whether every hop answered every pixel as the reference did."""
        return bool(self.agreement) and all(share == 1.0 for share in self.agreement.values())

    def headline(self) -> str:
        """Passed or not, what was judged, and how many limits had nothing to judge."""
        unjudged = sum(map(len, self.unjudged.values()))
        verdict = self._verdict() + (f", {_limits(unjudged)} not judged" if unjudged else "")
        if self.failed:
            verdict = f"FAILED: {_limits(len(self.failed))}"
        worst = min((value for value in self.agreement.values() if value is not None), default=None)
        shown = verdict if worst is None else f"{verdict}, agreement {worst:.4%}"
        return "; ".join((shown, *self.warnings))

    def lines(self) -> Iterator[str]:
        """Agreement of each hop and the verdict, then what no limit fails."""
        shares = [f"{name} {share:.4%}" for name, share in self.agreement.items() if share is not None]
        gate = f"the release gate {self._verdict()}"
        yield f"agreement   {', '.join(shares) or 'none'} of pixels equal to the reference: {gate}"
        yield from (f"warning     {line}" for line in self.warnings)

    def _verdict(self) -> str:
        return self.status + (f" ({self.judged})" if self.judged else "")


def _limits(count: int) -> str:
    return "1 limit" if count == 1 else f"{count} limits"


class BenchmarkFigures(_Kept):
    """Our best, and PyTorch eager beside it where that could be measured."""

    stage = "benchmark"

    p50_ms: float | None = None
    faster_than_eager: Estimate | None = None
    doubts: tuple[str, ...] = ()
    """What disturbed the measurement."""
    partial: bool = False

    def headline(self) -> str:
        """Milliseconds a frame, and what makes them doubtful."""
        return "" if self.p50_ms is None else "; ".join((f"{self.p50_ms:.2f} ms a frame", *self.doubts))

    def lines(self) -> Iterator[str]:
        """The same beside PyTorch."""
        if self.p50_ms is None:
            return
        line = f"latency     {self.p50_ms:.2f} ms a frame end to end"
        if self.faster_than_eager:
            ratio, low, high = self.faster_than_eager
            line += f", PyTorch eager takes {ratio:.2f} times as long ({in_words(low, high)})"
        yield "; ".join((line, *self.doubts))


class IslandsFigures(_Kept):
    """What the search for FP32 islands ended with."""

    stage = "islands"

    islands: tuple[str, ...]
    trials: int
    failed: tuple[str, ...] = ()
    """Limits that the best islands still fail."""

    def headline(self) -> str:
        """How many, and how long it took to know."""
        tries = "1 trial" if self.trials == 1 else f"{self.trials} trials"
        if self.failed:
            return f"none make the FP16 hop pass; the best of {tries} keep {len(self.islands)} in FP32"
        return f"{len(self.islands)} in FP32 after {tries}"


MODELS: dict[str, type[StageFigures]] = {
    model.stage: model
    for model in (
        TrainFigures, ImportFigures, ExportFigures, BuildFigures, ValidateFigures, BenchmarkFigures, IslandsFigures,
    )
}  # fmt: skip

_F = TypeVar("_F", bound=StageFigures)


def read(model: type[_F], stages: Mapping[str, StageRecord]) -> _F | None:
    """The figures of the model's stage; None where it has not run, or left what this version cannot read."""
    record = stages.get(model.stage)
    return parse(model, record.figures) if record else None


def require(model: type[_F], run: RunDirectory) -> _F:
    """The figures of a stage that has run: what decides on them must not take unreadable ones for none."""
    record = run.record(model.stage)
    found = parse(model, record.figures)
    if found is None:
        raise ManifestError(
            f"the figures of stage '{model.stage}' in {run.path / FILE_NAME} cannot be read",
            hint=f"restore it from a backup, or delete {run.path / record.path} and run the same command again",
        )
    return found


def parse(model: type[_F], figures: Mapping[str, Any]) -> _F | None:
    """One record's figures, typed."""
    try:
        return TypeAdapter(model).validate_python(figures)
    except ValidationError:
        return None
