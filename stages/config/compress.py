"""[compress]: what makes a network smaller, faster or better than plain training and FP16 would."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from segpipe.errors import ConfigError
from stages.config.section import Section


class CutTooFarError(ConfigError):
    """So much cannot be cut out of this network; less may be. Any other refusal holds whatever the share."""


def _listed(value: Any) -> Any:
    """One string is a list of one."""
    return (value,) if isinstance(value, str) else value


class DistilConfig(Section):
    """Distillation: training also follows the scores of a larger network that is trained already."""

    teacher: Annotated[str, Field(min_length=1)]
    """The teacher's run directory, relative to the TOML file: trained, adopted or imported, for the same classes."""
    kind: Literal["cwd", "kl"] = "cwd"
    """What is followed: for each class where in the frame it is likely (channel-wise), or for each pixel which class
    is."""


class PruneConfig(Section):
    """Structured pruning: after training, whole channels are cut out, and what is left is trained further."""

    macs: Annotated[float, Field(gt=0, le=1)]
    """The share of the multiplications that is left."""
    epochs: PositiveInt = 5
    """Of further training, for the pruned network and for an unpruned one beside it, with which it is compared."""
    taught: bool | None = None
    """The network that it was cut from teaches the pruned one meanwhile, channel-wise. It does unless this is false, or
    [compress.distil] names a teacher."""


class CompressConfig(Section):
    """Smaller, faster and better networks. Nothing of it happens unless it is asked for."""

    int8: Literal["off", "ptq", "qat"] = "off"
    """`ptq`: export also writes model.int8.cpu.onnx for CPUs and model.int8.onnx for engines, quantised after training
    with ranges seen on calibration frames. They run only for those who ask for them. `qat`: training goes on with
    everything rounded as INT8 would, and the ranges are those that it was trained with."""
    qat_epochs: PositiveInt = 5
    """Of that further training."""
    fp8: bool = False
    """Export also writes model.fp8.onnx (E4M3), for engines of GPUs from compute capability 8.9 on."""
    calibration_images: PositiveInt = 48
    """Frames that the ranges are taken from: of the train split, and never those that the gate judges by."""
    calibration: Literal["minmax", "percentile"] = "minmax"
    """What a range spans: all that was seen, or, of each frame, all but 0.01 %: for networks with rare huge values."""
    keep: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ("auto",)
    """Layers that stay in floats: "auto" (those that one by one cost most, until agreement and the drop in mIoU hold
    on train frames), and names of modules or nodes, also as patterns (`head.*`). They add up."""
    distil: DistilConfig | None = None
    prune: PruneConfig | None = None

    @property
    def quantises(self) -> bool:
        """Whether there is anything to do after training."""
        return self.int8 != "off" or self.fp8

    @property
    def trains_int8(self) -> bool:
        """Whether training goes on for it."""
        return self.int8 == "qat"

    @property
    def teaches_itself(self) -> bool:
        """Whether a pruned network learns from what it was cut from."""
        if self.prune is None or self.prune.taught is False:
            return False
        return self.distil is None

    @model_validator(mode="after")
    def _one_teacher(self) -> "CompressConfig":
        if self.distil is not None and self.prune is not None and self.prune.taught:
            raise ValueError("[compress.distil] teacher and [compress.prune] taught name two teachers: keep one")
        return self


INT8_SETTINGS = ("int8", "fp8", "calibration_images", "calibration", "keep")
"""Those that export reads."""
TRIED_LIMITS = ("min_agreement_int8", "min_image_agreement_int8", "max_miou_drop_int8")
"""Of the gate's limits, those that export tries its choice of layers by."""
