"""One TOML file to the typed config of every stage. Owns names, defaults and allowed values."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Target = Literal["tensorrt-rtx", "tensorrt"]
Peer = Literal["eager", "half", "compile", "onnxruntime", "onnxruntime-cuda", "openvino"]


class Section(BaseModel):
    """A table of the TOML file: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ShapesData(Section):
    """A synthetic set made on the fly: overlapping shapes on textured backgrounds, the same on every machine."""

    kind: Literal["shapes"]
    height: PositiveInt = 160
    width: PositiveInt = 240
    train: PositiveInt = 400
    val: PositiveInt = 60
    test: PositiveInt = 60
    seed: int = 1


class FileData(Section):
    """What every set of files shares. `root` is relative to the TOML file."""

    root: Path
    remap: dict[str, int] = {}
    """Label value in the files -> class number or the ignore index; values not named stay as they are."""


class FolderData(FileData):
    """Images and index masks in folders, paired by their name without suffix; or pairs listed in a text file."""

    kind: Literal["folder"]
    images: str = "{split}/images"
    masks: str = "{split}/masks"
    pairs: str = ""
    """A text file a split (`{split}.txt`), an image and a mask a line; empty: pair the folders."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    palette: tuple[tuple[int, int, int], ...] = ()
    ignore_index: Annotated[int, Field(ge=0, le=65535)] = 255


class CamVidData(FileData):
    """CamVid as split for SegNet: train.txt, val.txt and test.txt with an image and a mask a line, 11 classes."""

    kind: Literal["camvid"]


class CityscapesData(FileData):
    """Cityscapes with fine labels: leftImg8bit/ and gtFine/, 19 classes; its val split serves as test too."""

    kind: Literal["cityscapes"]


class VocData(FileData):
    """Pascal VOC 2012 (the VOC2012 folder), 21 classes; its val split serves as test too."""

    kind: Literal["voc"]


DataConfig = Annotated[ShapesData | FolderData | CamVidData | CityscapesData | VocData, Field(discriminator="kind")]


class InputConfig(Section):
    """How frames become the network's input; becomes part of the contract."""

    height: PositiveInt | None = None
    width: PositiveInt | None = None
    fit: Literal["stretch", "letterbox", "pad"] = "stretch"
    channels: PositiveInt = 3
    channel_order: Literal["rgb", "bgr", "as_is"] = "rgb"
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    value_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _sizes_match_fit(self) -> "InputConfig":
        sized = self.height is not None and self.width is not None
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width go together")
        if sized == (self.fit == "pad"):
            raise ValueError(f"fit '{self.fit}' {'takes no' if sized else 'needs'} height and width")
        return self


class ModelConfig(Section):
    """The network: a name from this package, or `package.module:factory` of your own."""

    name: str = "skipnet"
    options: dict[str, Any] = {}


class TrainConfig(Section):
    """Optimisation. AdamW, one-cycle schedule."""

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    scale_range: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.5)
    flip: bool = True
    jitter: Share = 0.2
    """Random change of brightness and contrast, as a share."""
    crop_height: PositiveInt | None = None
    crop_width: PositiveInt | None = None
    workers: Annotated[int, Field(ge=0)] = 2
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of PyTorch; 0 takes one a core. Other counts may change the last bits of the weights."""
    seed: int = 1


class ExportConfig(Section):
    """ONNX."""

    opset: Annotated[int, Field(ge=17, le=22)] = 18
    fp32_islands: tuple[str, ...] = ()
    """Modules that model.fp16.onnx keeps in FP32, by their dotted names."""


class BuildConfig(Section):
    """TensorRT engines."""

    targets: tuple[Target, ...] = ("tensorrt-rtx",)
    precision: Literal["fp16", "fp32"] = "fp16"
    compute_capabilities: tuple[str, ...] = ("8.0", "8.6", "8.9", "12.0")
    """GPUs that a tensorrt-rtx engine is built for."""
    max_batch: PositiveInt = 8
    min_fp16_share: Share = 0.9
    """Least share of convolutions, deconvolutions and matrix products, islands apart, that must be in FP16."""


class Limits(Section):
    """When the release gate fails. Each number has its reason beside it."""

    min_agreement: Share = 0.995
    """Of all pixels. An honest FP16 conversion of a trained network keeps about 99.9 %."""
    max_flips_inside: Share = 0.001
    """Of pixels away from every boundary. There margins are wide, so flips mean another network, not rounding."""
    max_iou_drop: Share = 0.005
    """Of the mean IoU and of each class, against the labels. Less than the spread between two trainings."""
    max_relative_l2: PositiveFloat = 0.02
    """Of the scores. FP16 gives 1e-4 to 1e-2; a wrong mean, resize or weight gives more."""


class ValidateConfig(Section):
    """The release gate."""

    images: PositiveInt = 40
    boundary_px: PositiveInt = 3
    limits: Limits = Limits()


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
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    build: BuildConfig = BuildConfig()
    validate_: Annotated[ValidateConfig, Field(alias="validate")] = ValidateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    def stored(self) -> dict[str, Any]:
        """What the run directory keeps: `resolved` for people, `chosen` (all that is no default) for freshness."""
        return {"resolved": self.model_dump(mode="json", by_alias=True), "chosen": self._chosen()}

    def sections(self, *names: str) -> dict[str, Any]:
        """Some tables as a stage's parameters. Defaults are left out, so that a new option retrains nothing."""
        chosen = self._chosen()
        return {name: chosen.get(name, {}) for name in names}

    def _chosen(self) -> dict[str, Any]:
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_WITHOUT_EFFECT)


_WITHOUT_EFFECT: Any = {"data": {"root"}, "train": {"workers", "threads"}, "benchmark": {"threads"}}
"""Settings that say where and how fast, not what: data is known by its fingerprint."""
