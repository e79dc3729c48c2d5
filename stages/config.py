"""One TOML file to the typed config of every stage. Owns names, defaults and allowed values."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from stages.config_data import (
    CamVidData,
    CityscapesData,
    DataConfig,
    FolderData,
    InputConfig,
    PetData,
    ShapesData,
    VocData,
)
from stages.config_train import AugmentConfig, LossTerm, TrainConfig
from stages.section import Section, Share

__all__ = [
    "AugmentConfig",
    "BenchmarkConfig",
    "BuildConfig",
    "CamVidData",
    "CityscapesData",
    "Config",
    "ExportConfig",
    "FolderData",
    "InputConfig",
    "Limits",
    "LossTerm",
    "ModelConfig",
    "PetData",
    "Section",
    "ShapesData",
    "TrainConfig",
    "ValidateConfig",
    "VocData",
]

Target = Literal["tensorrt-rtx", "tensorrt"]


class ModelConfig(Section):
    """The network: a name from this package, or `package.module:factory` of your own."""

    name: str = "skipnet"
    options: dict[str, Any] = Field(default_factory=dict)


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
    """Latency."""

    frames: PositiveInt = 16
    rounds: PositiveInt = 60
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


_WITHOUT_EFFECT: Any = {
    "data": {"root"},
    "train": {"workers", "threads", "devices", "nodes", "compile", "tensorboard"},
    "benchmark": {"threads"},
}
"""Settings that say where and how fast, not what: data is known by its fingerprint."""
