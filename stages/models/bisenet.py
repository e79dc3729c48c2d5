"""BiSeNetV2 (Yu et al. 2021): a wide shallow branch for detail, a narrow deep one for meaning. Scores at stride 8.

Deep supervision ("booster training"): in training mode `forward` returns (scores, four auxiliary scores) at strides
8, 4, 8, 16 and 32; the training stage weights the losses of the latter with `train.auxiliary_weight` (the paper takes
1). In eval mode it returns one tensor.

The paper counts 21.15 G multiply-adds at 512x1024; here they are 24.6 G, 11.7 of them in the detail branch and 9.8 in
the head of 1024 channels. Which of them the paper left out, or made smaller, is not known.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.layers import ConvNormAct

_DETAIL = 128


class BiSeNetV2(nn.Module):
    """The paper's network: 64, 64 and 128 channels of detail, expansion 6, 1024 channels in the head."""

    stride = 8
    size_multiple = 32
    encoder_parts = ("detail", "stem", "stage3", "stage4", "stage5", "context")
    head_parts = ("head.1", "auxiliary_heads.0.1", "auxiliary_heads.1.1", "auxiliary_heads.2.1", "auxiliary_heads.3.1")

    def __init__(self, channels: int, classes: int, head_width: int = 1024) -> None:
        super().__init__()
        self.detail = nn.Sequential(
            ConvNormAct(channels, 64, stride=2), ConvNormAct(64, 64),
            ConvNormAct(64, 64, stride=2), ConvNormAct(64, 64), ConvNormAct(64, 64),
            ConvNormAct(64, _DETAIL, stride=2), ConvNormAct(_DETAIL, _DETAIL), ConvNormAct(_DETAIL, _DETAIL),
        )  # fmt: skip
        self.stem = Stem(channels, 16)
        self.stage3 = nn.Sequential(GatherDown(16, 32), Gather(32))
        self.stage4 = nn.Sequential(GatherDown(32, 64), Gather(64))
        self.stage5 = nn.Sequential(GatherDown(64, _DETAIL), Gather(_DETAIL), Gather(_DETAIL), Gather(_DETAIL))
        self.context = ContextEmbedding(_DETAIL)
        self.aggregation = GuidedAggregation(_DETAIL)
        self.head = _head(_DETAIL, head_width, classes)
        self.auxiliary_heads = nn.ModuleList(_head(width, 128, classes) for width in (16, 32, 64, _DETAIL))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        meaning = [self.stem(image)]
        for stage in (self.stage3, self.stage4, self.stage5):
            meaning.append(stage(meaning[-1]))
        features = self.aggregation(self.detail(image), self.context(meaning[-1]))
        scores: Tensor = self.head(features)
        if not self.training:
            return scores
        return scores, *(head(level) for head, level in zip(self.auxiliary_heads, meaning, strict=True))


class Stem(nn.Module):
    """To a quarter of the size in two ways: a convolution and a maximum, side by side."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = ConvNormAct(channels, width, stride=2)
        self.left = nn.Sequential(ConvNormAct(width, width // 2, 1), ConvNormAct(width // 2, width, stride=2))
        self.right = nn.MaxPool2d(3, 2, 1)
        self.fuse = ConvNormAct(2 * width, width)

    def forward(self, image: Tensor) -> Tensor:
        half = self.first(image)
        fused: Tensor = self.fuse(torch.cat([self.left(half), self.right(half)], 1))
        return fused


class Gather(nn.Module):
    """Gather-and-expansion layer: 3x3, depthwise expansion by 6, projection, beside the identity."""

    def __init__(self, width: int, expansion: int = 6) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormAct(width, width),
            ConvNormAct(width, expansion * width, groups=width),
            ConvNormAct(expansion * width, width, 1, act=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + features)


class GatherDown(nn.Module):
    """Gather-and-expansion layer that halves the size: two depthwise convolutions, and a separable shortcut."""

    def __init__(self, channels: int, width: int, expansion: int = 6) -> None:
        super().__init__()
        wide = expansion * channels
        self.body = nn.Sequential(
            ConvNormAct(channels, channels),
            ConvNormAct(channels, wide, stride=2, groups=channels, act=False),
            ConvNormAct(wide, wide, groups=wide),
            ConvNormAct(wide, width, 1, act=False),
        )
        self.shortcut = nn.Sequential(
            ConvNormAct(channels, channels, stride=2, groups=channels, act=False),
            ConvNormAct(channels, width, 1, act=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


class ContextEmbedding(nn.Module):
    """The mean of the whole picture, added everywhere."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.project = ConvNormAct(width, width, 1)
        self.last = ConvNormAct(width, width)

    def forward(self, features: Tensor) -> Tensor:
        mean = self.project(self.norm(features.mean((2, 3), keepdim=True)))
        embedded: Tensor = self.last(features + mean)
        return embedded


class GuidedAggregation(nn.Module):
    """Bilateral guided aggregation: each branch gates the other, at its own scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.detail_keep = nn.Sequential(
            ConvNormAct(width, width, groups=width, act=False), nn.Conv2d(width, width, 1, bias=False)
        )
        self.detail_down = nn.Sequential(ConvNormAct(width, width, stride=2, act=False), nn.AvgPool2d(3, 2, 1))
        self.meaning_up = ConvNormAct(width, width, act=False)
        self.meaning_keep = nn.Sequential(
            ConvNormAct(width, width, groups=width, act=False), nn.Conv2d(width, width, 1, bias=False)
        )
        self.fuse = ConvNormAct(width, width)

    def forward(self, detail: Tensor, meaning: Tensor) -> Tensor:
        fine = self.detail_keep(detail) * torch.sigmoid(_quadruple(self.meaning_up(meaning)))
        coarse = self.detail_down(detail) * torch.sigmoid(self.meaning_keep(meaning))
        fused: Tensor = self.fuse(fine + _quadruple(coarse))
        return fused


def _head(channels: int, width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.Sequential(ConvNormAct(channels, width), nn.Dropout(0.1)), nn.Conv2d(width, classes, 1))


def _quadruple(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=4.0, mode="bilinear", align_corners=False)
