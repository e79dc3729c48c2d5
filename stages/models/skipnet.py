"""SkipNet: a plain encoder-decoder with skip connections. Scores at stride 4; sides must be multiples of 32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.layers import ConvNormAct


class SkipNet(nn.Module):
    """Five halvings down to 8 x `width` channels, three doublings back, joined by concatenation."""

    stride = 4
    size_multiple = 32
    encoder_parts = ("stem", "down1", "down2", "down3", "down4")
    head_parts = ("head",)

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.stem = _block(channels, width, stride=2)
        self.down1 = _block(width, 2 * width, stride=2)
        self.down2 = _block(2 * width, 4 * width, stride=2)
        self.down3 = _block(4 * width, 8 * width, stride=2)
        self.down4 = _block(8 * width, 8 * width, stride=2)
        self.up3 = _block(16 * width, 8 * width)
        self.up2 = _block(12 * width, 4 * width)
        self.up1 = _block(6 * width, 4 * width)
        self.head = nn.Conv2d(4 * width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        quarter = self.down1(self.stem(image))
        eighth = self.down2(quarter)
        sixteenth = self.down3(eighth)
        deep = self.down4(sixteenth)
        deep = self.up3(torch.cat([_double(deep), sixteenth], 1))
        deep = self.up2(torch.cat([_double(deep), eighth], 1))
        deep = self.up1(torch.cat([_double(deep), quarter], 1))
        scores: Tensor = self.head(deep)
        return scores


def _block(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*ConvNormAct(channels, width, stride=stride), *ConvNormAct(width, width))


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2.0, mode="bilinear", align_corners=False)
