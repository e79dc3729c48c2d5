"""One TOML file to the typed config of every stage. Owns names, defaults and allowed values."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from segpipe.artifacts import Precision
from stages.config.compress import INT8_SETTINGS, TRIED_LIMITS, CompressConfig
from stages.config.data import (
    CamVidData,
    CityscapesData,
    CocoData,
    DataConfig,
    FolderData,
    InputConfig,
    PetData,
    ShapesData,
    VocData,
)
from stages.config.losses import ThingWeights
from stages.config.section import Section, Share
from stages.config.task import InstancesConfig, SemanticConfig, TaskConfig
from stages.config.train import AugmentConfig, TrainConfig

__all__ = [
    "AugmentConfig",
    "BenchmarkConfig",
    "BuildConfig",
    "CamVidData",
    "CityscapesData",
    "CocoData",
    "CompressConfig",
    "Config",
    "ExportConfig",
    "FolderData",
    "InputConfig",
    "InstancesConfig",
    "Limits",
    "ModelConfig",
    "PetData",
    "Section",
    "ShapesData",
    "TrainConfig",
    "ValidateConfig",
    "VocData",
]


def _listed(value: Any) -> Any:
    """One string is a list of one."""
    return (value,) if isinstance(value, str) else value


Target = Literal["tensorrt-rtx", "tensorrt"]
Peer = Literal["eager", "half", "compile", "onnxruntime", "onnxruntime-cuda", "openvino"]


EnginePrecision = Literal["fp16", "fp32", "int8", "fp8"]


def _unlisted(value: Any) -> Any:
    """A list of one is that one; several come in one order, each once."""
    if not isinstance(value, (list, tuple)) or not {*map(str, value)} <= {*get_args(EnginePrecision)}:
        return value
    if not value:
        raise ValueError("at least one precision")
    found = tuple(precision for precision in get_args(EnginePrecision) if precision in value)
    return found[0] if len(found) == 1 else found


class ModelConfig(Section):
    """The network: a name from this package, or `package.module:factory` of your own."""

    name: str = "skipnet"
    """`segpipe models` lists them."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the network's factory."""
    weights: str = ""
    """Pretrained weights: a .safetensors, .pth or .pt file relative to the TOML file (of the encoder or of the whole
    network), `imagenet` (downloaded by torchvision, smp or timm), `coco` for torchvision/..., or another published
    set's name. Empty: random."""
    trained: str = ""
    """The network is trained already: the file with all of its weights (.safetensors, .pth, .ckpt and the like),
    relative to the TOML file. `segpipe adopt` and `run` take it as it is, and nothing is trained."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelConfig":
        if self.weights and self.trained:
            raise ValueError("weights (to train from) and trained (to take as it is) exclude each other")
        return self


class ExportConfig(Section):
    """ONNX."""

    opset: Annotated[int, Field(ge=17, le=22)] = 18
    """Every consumer reads 18: ONNX Runtime with CUDA keeps Resize on the GPU up to it, and TensorRT 10.13 knows it."""
    fp32_islands: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("auto",)
    """What model.fp16.onnx keeps in FP32: "auto" (what the range probe finds), "weights" (without frames), and
    names of modules or nodes, also as patterns (`head.*`). They add up."""
    calibration_images: PositiveInt = 16
    """Frames that the range probe looks at."""
    end_to_end: Literal["off", "mask", "confidence"] = "off"
    """Also write model.e2e.onnx, one graph from frame to mask, for programs that cannot run segpipe; `confidence` adds
    how sure the network is of each pixel. It blends every class at every pixel, which the runtime avoids."""


Range = tuple[PositiveInt, PositiveInt, PositiveInt]


class Profile(Section):
    """One optimisation profile: smallest, typical and largest batch, height and width of the network's input."""

    batch: Range = (1, 1, 8)
    """Of one call."""
    height: Range | None = None
    """Where the contract leaves the size open."""
    width: Range | None = None
    """As height."""

    @model_validator(mode="after")
    def _in_order(self) -> "Profile":
        for name in ("batch", "height", "width"):
            values = getattr(self, name)
            if values is not None and list(values) != sorted(values):
                raise ValueError(f"{name} must be smallest, typical, largest")
        return self


class BuildConfig(Section):
    """TensorRT engines."""

    targets: tuple[Target, ...] = ("tensorrt-rtx",)
    """Which engines are built: tensorrt-rtx on any machine, tensorrt on the GPU it will run on."""
    precision: Annotated[EnginePrecision | tuple[EnginePrecision, ...], BeforeValidator(_unlisted)] = "fp16"
    """What engines are built from: the graph of this precision, or of each in a list. FP32 is computed in TF32; int8
    needs compress.int8, fp8 compress.fp8 and GPUs from compute capability 8.9 on."""
    compute_capabilities: tuple[str, ...] = ("8.0", "8.6", "8.9", "12.0")
    """GPUs that a tensorrt-rtx engine is built for."""
    max_batch: PositiveInt = 8
    """Largest batch of the one profile that is made when `profiles` is empty."""
    profiles: tuple[Profile, ...] = ()
    """Several optimisation profiles, for instance one for single frames and one for batches."""
    min_fp16_share: Share = 0.9
    """Least share of convolutions, deconvolutions and matrix products, islands apart, that must be in FP16."""
    min_int8_share: Share = 0.9
    """The same of an INT8 or FP8 engine: those both of whose inputs have 8 bits, of all that export has not kept in
    floats."""
    workspace_mb: PositiveInt | None = None
    """Most scratch memory that a layer may use on the GPU; without it, all there is."""
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    """How long TensorRT searches: 0 builds fastest, 5 runs fastest."""
    timing_cache: bool = True
    """`tensorrt` only: keep measured timings for the next build, by GPU and version."""
    hardware_compatibility: Literal["none", "ampere-plus", "same-compute-capability"] = "none"
    """`tensorrt` only: which other GPUs may run the engine."""
    version_compatible: bool = False
    """`tensorrt` only: later TensorRT versions may run the engine."""

    @property
    def precisions(self) -> tuple[EnginePrecision, ...]:
        """As a list, whatever was written."""
        return (self.precision,) if isinstance(self.precision, str) else self.precision


class Limits(Section):
    """When the release gate fails. Each number has its reason beside it."""

    min_agreement: Share = 0.995
    """Of all pixels. An honest FP16 conversion of a trained network keeps about 99.9 %."""
    min_image_agreement: Share = 0.97
    """Of the worst image: one that is broken among thousands moves no mean. Many borders are many honest flips."""
    max_flips_inside: Share = 0.001
    """Of pixels away from every boundary. There margins are wide, so flips mean another network, not rounding."""
    max_flips_boundary: Share = 0.02
    """Of pixels near a boundary. Rounding flips a few in a thousand; a shift by one pixel flips one in six."""
    max_large_margin_flips: Share = 1e-4
    """Of all pixels, flipped although the reference led by `large_margin`. Rounding errors are a hundred times less."""
    max_iou_drop: Share = 0.005
    """Of each labelled class, and so of their mean, against the labels. Less than the spread between two trainings."""
    max_relative_l2: PositiveFloat = 0.008
    """Of the worst image's scores, of FP16 and TF32 hops. Rounding gives 3e-4 to 3e-3; a wrong mean, resize or weight
    gives more."""
    max_relative_l2_fp32: PositiveFloat = 1e-4
    """Of the worst image's scores, of hops that compute in FP32. Another order of sums gives 1e-7 to 1e-5."""
    max_stress_relative_l2: PositiveFloat = 0.05
    """On black, noise, checkerboards and the like: activations leave the trained range, so rounding weighs more."""
    rounding_factor: PositiveFloat = 6
    """FP16 and TF32 hops may differ by so many times what rounding every result to FP16 does to this network on the
    same images (scores and flips), BF16 hops by eight times that; never by more than the limits around here. Sums
    that hardware keeps in FP16 cost up to 5 times; weights in 8 bits 10 to 20 times. 1e9 leaves the limits alone."""
    max_relative_l2_bf16: PositiveFloat = 0.03
    """`max_relative_l2` of hops that compute in BF16, whose rounding is eight times that of FP16: 2e-3 to 2e-2."""
    max_stress_relative_l2_bf16: PositiveFloat = 0.2
    """`max_stress_relative_l2` of the same."""
    min_agreement_bf16: Share = 0.98
    """`min_agreement` of the same: flips grow as rounding does, eightfold, but not beyond what people see."""
    min_image_agreement_bf16: Share = 0.9
    """`min_image_agreement` of the same."""
    max_flips_inside_bf16: Share = 0.005
    """`max_flips_inside` of the same."""
    max_flips_boundary_bf16: Share = 0.1
    """`max_flips_boundary` of the same. A shift by one pixel still flips one in six."""
    max_large_margin_flips_bf16: Share = 1e-3
    """`max_large_margin_flips` of the same."""
    max_iou_drop_bf16: Share = 0.02
    """`max_iou_drop` of the same."""
    max_relative_l2_int8: PositiveFloat = 0.10
    """`max_relative_l2` of hops that compute in INT8 or FP8: 8 bits give 0.02 to 0.06, a wrong range or scale more."""
    max_stress_relative_l2_int8: PositiveFloat = 1.0
    """`max_stress_relative_l2` of the same. What leaves the calibrated ranges is cut off there, as it should be."""
    min_agreement_int8: Share = 0.98
    """`min_agreement` of the same."""
    min_image_agreement_int8: Share = 0.95
    """`min_image_agreement` of the same: a range that fits most images and not all breaks single ones."""
    max_flips_inside_int8: Share = 0.005
    """`max_flips_inside` of the same."""
    max_flips_boundary_int8: Share = 0.12
    """`max_flips_boundary` of the same. A shift by one pixel still flips one in six."""
    max_large_margin_flips_int8: Share = 0.01
    """`max_large_margin_flips` of the same: errors of 8 bits reach a tenth of the scores' spread."""
    max_iou_drop_int8: Share = 0.03
    """`max_iou_drop` of the same, of a single class."""
    max_miou_drop_int8: Share = 0.010
    """Of the same: the upper end of the 95 % interval of the drop in mean IoU, by drawing blocks of labelled
    images again and again. Without labels such a hop cannot pass: equal masks are not expected of it."""
    max_calibration_rise_int8: Share = 0.02
    """Of the same: how much the expected calibration error may rise, which is how far confidence is from being right.
    Wrong ranges make networks surer, or less sure, than they are before they change classes."""
    max_fp16_range: Share = 0.25
    """Largest score or activation of an FP16 hop as a share of 65504. A quarter leaves room for images brighter than
    those tried. What stays in FP32 does not count."""
    min_resize_response: Share = 0.5
    """How far scores follow the reference's when a frame has been resized and rounded beforehand. A resize that rounds
    by itself has done that already and follows by 0; an honest one by 1."""
    min_miou: Share | None = None
    """Mean IoU over the labelled classes, of every hop and of the reference, on the gate's labelled images. Off unless
    set: the other limits ask whether it is still the same network, this one whether it is any good. What is deployed
    counts, so each hop is held to it; `--hop` sees a few stored images only and takes over what the gate found."""
    min_class_iou: Share | None = None
    """The same of the worst labelled class, which hardly moves a mean over many."""
    min_reference_miou_share: Share = 0.5
    """The reference's mIoU on these labels, as a share of what training recorded. Less: they are not its labels."""


class ValidateConfig(Section):
    """The release gate."""

    images: PositiveInt = 40
    """Of the validation split, chosen by a fixed seed; a larger number takes all."""
    boundary_px: PositiveInt = 3
    """So many pixels on either side of a change of class are boundary: flips there are common and harmless."""
    large_margin: PositiveFloat = 0.1
    """A flip counts as large where the reference led by this many standard deviations of its scores."""
    stress: bool = True
    """Also try constants, noise, checkerboards, extreme contrast, a single changed pixel, extreme sizes."""
    reference_images: PositiveInt = 8
    """So many images are stored with their scores, for a machine that judges an engine and has no PyTorch."""
    pictures: PositiveInt = 6
    """Worst images shown on the gate's page."""
    limits: Limits = Limits()


class DeployConfig(Section):
    """What the runtime's `auto` may run; the gate records it. What computes less finely must be asked for by name."""

    gpu: Precision = "fp16"
    """Least fine precision on a GPU: fp32, tf32, fp16, bf16, fp8, int8, from the finest on."""
    cpu: Precision = "fp32"
    """The same on a CPU."""


class BenchmarkConfig(Section):
    """Latency, and what stands beside it."""

    frames: PositiveInt = 16
    """Of the val split, in turn."""
    rounds: PositiveInt = 100
    """Samples of each contestant; 100 tell the 90th percentile, 1000 the 99th."""
    seconds: PositiveFloat = 30
    """Time limit of the rounds; a machine that is busy with other work gives fewer."""
    peers: tuple[Peer, ...] = ("eager", "half", "compile", "onnxruntime", "onnxruntime-cuda", "openvino")
    """Whom to measure beside this run. Those that cannot run here are listed with the reason."""
    batches: tuple[PositiveInt, ...] = (1, 4, 8)
    """Frames a call, for throughput."""
    callers: tuple[PositiveInt, ...] = (1, 2, 4)
    """Threads calling at once, for throughput."""
    throughput_seconds: PositiveFloat = 1
    """For each of them."""
    threads: Annotated[int, Field(ge=0)] = 0
    """0 takes one a core."""


class Config(Section):
    """The whole file."""

    data: DataConfig
    input: InputConfig
    task: TaskConfig = SemanticConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    compress: CompressConfig = CompressConfig()
    export: ExportConfig = ExportConfig()
    build: BuildConfig = BuildConfig()
    validate_: Annotated[ValidateConfig, Field(alias="validate")] = ValidateConfig()
    deploy: DeployConfig = DeployConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    @model_validator(mode="after")
    def _trains(self) -> "Config":
        if self.model.trained and self.retrained:
            raise ValueError(f"{self.retrained[0]} trains, and [model] trained is taken as it is")
        further = [words for words in self.retrained if words != _DISTIL]
        if further and self.train.learning_rate == "find":
            raise ValueError(f"{further[0]} trains further: set [train] learning_rate to what was found")
        return self

    @model_validator(mode="after")
    def _fits_task(self) -> "Config":
        of_things = isinstance(self.data, CocoData) or getattr(self.data, "masks_are", "") == "ids"
        if isinstance(self.task, InstancesConfig):
            for problem, wrong in self._not_for_things().items():
                if wrong:
                    raise ValueError(f"{problem} [task] kind 'instances'")
        elif self.train.things != ThingWeights():
            raise ValueError("[train.things] weighs the parts of a loss that [task] kind 'instances' has alone")
        elif of_things:
            raise ValueError(f"[data] of kind '{self.data.kind}' labels things so: set [task] kind = \"instances\"")
        return self

    def _not_for_things(self) -> dict[str, bool]:
        """What networks for things cannot be asked for yet, and whether it is."""
        kind = self.data.kind
        return {
            f"[data] kind '{kind}' labels no things one by one, as wants": kind in {"camvid", "pet"},
            "[data] masks_are must be 'ids' for": getattr(self.data, "masks_are", "ids") != "ids",
            "[data] remap is not there for": bool(getattr(self.data, "remap", None)),
            "[data] unscored is not there for": bool(getattr(self.data, "unscored", ())),
            "[compress] is not there yet for": self.compress != CompressConfig(),
            "[train] output 'sigmoid' is of masks, not of": self.train.output != "softmax",
            "[train] class_weights are not there for": self.train.class_weights != "none",
            "[export] end_to_end is not there yet for": self.export.end_to_end != "off",
            "[build] precision 'int8' and 'fp8' are not there yet for": not {*self.build.precisions}
            <= {"fp16", "fp32"},
        }

    @property
    def retrained(self) -> tuple[str, ...]:
        """What of [compress] changes weights by training, as it is written in the file."""
        tables = [f"[compress.{name}]" for name in _TRAINED_TABLES if getattr(self.compress, name) is not None]
        return (*tables, *(['[compress] int8 = "qat"'] if self.compress.trains_int8 else ()))

    def stored(self) -> dict[str, Any]:
        """What the run directory keeps: `resolved` for people, `chosen` (all that is no default) for freshness."""
        return {"resolved": self.model_dump(mode="json", by_alias=True), "chosen": self._chosen()}

    def sections(self, *names: str) -> dict[str, Any]:
        """Some tables as a stage's parameters. Defaults are left out, so that a new option retrains nothing."""
        chosen = self._chosen()
        return {name: chosen.get(name, {}) for name in names}

    def training(self) -> dict[str, Any]:
        """All tables that decide the weights. [compress] is not training's alone: what is comes one by one."""
        chosen = self._chosen().get("compress", {})
        names = (*_TRAINED_TABLES, *(_TRAINED_INT8 if self.compress.trains_int8 else ()))
        compress = {f"compress.{name}": chosen[name] for name in names if name in chosen}
        return {**self.sections("data", "input", "model", "train"), **self.chosen_task(), **compress}

    def chosen_task(self) -> dict[str, Any]:
        """[task] as parameters; nothing at all at its default, as before there was one."""
        chosen = self._chosen()
        return {"task": chosen["task"]} if "task" in chosen else {}

    def chosen_deploy(self) -> dict[str, Any]:
        """[deploy] as parameters; nothing at all at its defaults, as before there was one."""
        chosen = self._chosen()
        return {"deploy": chosen["deploy"]} if "deploy" in chosen else {}

    def chosen_int8(self) -> dict[str, Any]:
        """What decides the graphs of 8 bits, as parameters; nothing at all where none are made."""
        if not self.compress.quantises:
            return {}
        chosen = self._chosen()
        own = {name: value for name, value in chosen["compress"].items() if name in INT8_SETTINGS}
        limits = chosen.get("validate", {}).get("limits", {})
        return {"compress": own, "limits": {name: limits[name] for name in TRIED_LIMITS if name in limits}}

    def shapes(self) -> dict[str, Any]:
        """The batches and sizes that engines are for, which graphs are proved and judged at, as parameters."""
        build = self._chosen().get("build", {})
        return {"shapes": {name: build[name] for name in ("max_batch", "profiles") if name in build}}

    def _chosen(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_WITHOUT_EFFECT)


_TRAINED_TABLES, _TRAINED_INT8 = ("distil", "prune"), ("int8", "qat_epochs")
"""What of [compress] changes the weights: tables, and settings that do so with `qat`."""
_DISTIL = "[compress.distil]"
_WITHOUT_EFFECT: Any = {
    "data": {"root", "absent_classes"},
    "compress": {"distil": {"teacher"}},
    "train": {"workers", "threads", "devices", "nodes", "compile", "tensorboard"},
    "benchmark": {"threads"},
    "build": {"timing_cache"},
}
"""Settings that say where, how fast and what is put up with, not what: data and teachers are known by hashes."""
