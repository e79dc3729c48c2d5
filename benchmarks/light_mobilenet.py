"""A network for CamVid on a CPU: torchvision's MobileNetV2 and a light top-down decoder. Scores at stride 4."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

_TAPS = {3: 24, 6: 32, 13: 96, 17: 320}  # the last block of each stage (strides 4, 8, 16, 32) and its channels


class LightMobileNet(nn.Module):
    """Encoder and decoder; each level of the decoder adds a projected encoder level and one depthwise block."""

    stride = 4
    size_multiple = 32

    def __init__(self, channels: int, classes: int, width: int, weights: str) -> None:
        super().__init__()
        if channels != 3:
            raise TypeError(f"the encoder was trained on 3 channels, not {channels}")
        trunk = mobilenet_v2(weights=None)
        if weights:
            _load(trunk, Path(weights))
        self.encoder = trunk.features[:18]
        self.lateral = nn.ModuleList(_pointwise(count, width) for count in _TAPS.values())
        self.context = _pointwise(width, width)
        self.blocks = nn.ModuleList(_depthwise(width) for _ in _TAPS)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        levels, features = [], image
        for number, layer in enumerate(self.encoder):
            features = layer(features)
            if number in _TAPS:
                levels.append(features)
        projected = [lateral(level) for lateral, level in zip(self.lateral, levels, strict=True)]
        deep = projected[3] + self.context(F.adaptive_avg_pool2d(projected[3], 1))
        deep = self.blocks[3](deep)
        for level in (2, 1, 0):
            deep = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
            deep = self.blocks[level](deep + projected[level])
        scores: Tensor = self.head(deep)
        return scores


def light_mobilenet(channels: int, classes: int, width: int = 96, weights: str = "") -> nn.Module:
    """The factory for [model] name; `weights` is a file with torchvision's MobileNetV2, used once, at the start."""
    return LightMobileNet(channels, classes, width, weights)


def _load(trunk: nn.Module, path: Path) -> None:
    if not path.exists():  # a trained checkpoint is opened elsewhere too: its own weights come right after
        return
    state = torch.load(path, weights_only=True, map_location="cpu")
    missing, unexpected = trunk.load_state_dict(state, strict=False)
    wrong = [key for key in missing if not key.startswith("classifier.")] + list(unexpected)
    if wrong:
        raise TypeError(f"{path} is no MobileNetV2: {', '.join(wrong[:5])}")


def _pointwise(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _depthwise(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 5, 1, 2, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
