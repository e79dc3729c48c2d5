"""torchvision's segmentation networks without their final upsampling, for any number of input channels.

Deep supervision: with the option `auxiliary = true` (FCN and DeepLabV3) `forward` returns (scores, auxiliary scores) in
training mode; the training stage weights the second loss with `train.auxiliary_weight`. In eval mode, one tensor.
"""

from typing import Any

import torchvision
from torch import Tensor, nn

from segpipe.errors import ConfigError
from stages.models.library import Library
from stages.models.pretrained import adapt_stem

_STRIDES = {"fcn": 8, "deeplabv3_resnet": 8, "deeplabv3_mobilenet": 16, "lraspp": 8}
_MULTIPLES = {"deeplabv3_mobilenet": 16, "lraspp": 16}
_HEADS = {"lraspp": ("classifier.low_classifier", "classifier.high_classifier")}


class TorchvisionNetwork(nn.Module):
    """`name` is a builder of torchvision.models.segmentation; keys of the weights are torchvision's."""

    encoder_parts = ("backbone",)

    def __init__(self, name: str, channels: int, classes: int, *, auxiliary: bool = False) -> None:
        super().__init__()
        whole = _build(name, classes, auxiliary)
        self.library = Library("torchvision", name)
        self.stride: int = _by_family(_STRIDES, name, 8)
        self.size_multiple: int = _by_family(_MULTIPLES, name, 8)
        self.head_parts: tuple[str, ...] = _by_family(_HEADS, name, ("classifier.4", "aux_classifier.4"))
        self.backbone: nn.Module = whole.backbone
        self.classifier: nn.Module = whole.classifier
        self.aux_classifier: nn.Module | None = getattr(whole, "aux_classifier", None)
        adapt_stem(self.backbone, channels)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        features = self.backbone(image)
        scores: Tensor = self.classifier(features.get("out", features))  # LR-ASPP's head takes both levels
        if self.training and self.aux_classifier is not None:
            return scores, self.aux_classifier(features["aux"])
        return scores


def _build(name: str, classes: int, auxiliary: bool) -> Any:
    options: dict[str, Any] = {} if name.startswith("lraspp") else {"aux_loss": auxiliary}
    if auxiliary and not options:
        raise ConfigError(f"[model] torchvision/{name} has no auxiliary head", hint="leave `auxiliary` out")
    return torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=classes, **options)


def _by_family(table: dict[str, Any], name: str, otherwise: Any) -> Any:
    return next((value for family, value in table.items() if name.startswith(family)), otherwise)
