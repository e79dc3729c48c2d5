"""DDRNet-23-slim (Hong et al. 2021): a high- and a low-resolution branch that keep talking. Scores at stride 8.

Deep supervision: in training mode `forward` returns (scores, auxiliary scores), both at stride 8; the training stage
weights the loss of the second with `train.auxiliary_weight` (the paper takes 0.4). In eval mode it returns one tensor.
"""

import torch
from torch import Tensor, nn

from stages.models.layers import ConvNormAct, resize


class DDRNet23Slim(nn.Module):
    """`width` 32 is the slim network of the paper; 64 gives DDRNet-23 itself, with `head_width` 128."""

    stride = 8
    size_multiple = 8
    encoder_parts = (
        "stem", "layer1", "layer2", "layer3", "layer4", "layer5", "high3", "high4", "high5",
        "down3", "down4", "compress3", "compress4",
    )  # fmt: skip
    head_parts = ("head.conv2", "auxiliary_head.conv2")

    def __init__(self, channels: int, classes: int, width: int = 32, head_width: int = 64) -> None:
        super().__init__()
        high = 2 * width
        self.stem = nn.Sequential(*ConvNormAct(channels, width, stride=2), *ConvNormAct(width, width, stride=2))
        self.layer1 = _basic_blocks(width, width)
        self.layer2 = _basic_blocks(width, 2 * width, stride=2)
        self.layer3 = _basic_blocks(2 * width, 4 * width, stride=2)
        self.layer4 = _basic_blocks(4 * width, 8 * width, stride=2)
        self.layer5 = Bottleneck(8 * width, 8 * width, stride=2)
        self.high3, self.high4 = _basic_blocks(high, high), _basic_blocks(high, high)
        self.high5 = Bottleneck(high, high)
        self.compress3 = ConvNormAct(4 * width, high, 1, act=False)
        self.compress4 = ConvNormAct(8 * width, high, 1, act=False)
        self.down3 = ConvNormAct(high, 4 * width, stride=2, act=False)
        self.down4 = nn.Sequential(
            *ConvNormAct(high, 4 * width, stride=2), *ConvNormAct(4 * width, 8 * width, stride=2, act=False)
        )
        self.pyramid = DAPPM(16 * width, 128, 4 * width)
        self.head = Head(4 * width, head_width, classes)
        self.auxiliary_head = Head(high, head_width, classes)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        low = torch.relu(self.layer2(torch.relu(self.layer1(self.stem(image)))))
        size = low.shape[2:]
        high = self.high3(low)
        low = self.layer3(low)
        low, high = low + self.down3(torch.relu(high)), high + resize(self.compress3(torch.relu(low)), size)
        middle = high
        low, high = self.layer4(torch.relu(low)), self.high4(torch.relu(high))
        low, high = low + self.down4(torch.relu(high)), high + resize(self.compress4(torch.relu(low)), size)
        high = self.high5(torch.relu(high))
        context = resize(self.pyramid(self.layer5(torch.relu(low))), size)
        scores: Tensor = self.head(high + context)
        return (scores, self.auxiliary_head(middle)) if self.training else scores


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int = 1, *, act: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(*ConvNormAct(channels, width, stride=stride), *ConvNormAct(width, width, act=False))
        self.shortcut = _shortcut(channels, width, stride)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.act(self.body(features) + self.shortcut(features))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to twice the `width`, beside a shortcut; no ReLU at the end."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNormAct(channels, width, 1),
            ConvNormAct(width, width, stride=stride),
            ConvNormAct(width, 2 * width, 1, act=False),
        )
        self.shortcut = _shortcut(channels, 2 * width, stride)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.body(features) + self.shortcut(features)
        return result


class DAPPM(nn.Module):
    """Deep aggregation pyramid pooling: ever wider averages, each refined with the one before it."""

    def __init__(self, channels: int, branch: int, width: int) -> None:
        super().__init__()
        pools = [nn.AvgPool2d(size, size // 2, size // 2) for size in (5, 9, 17)]
        self.first = _norm_act_conv(channels, branch, 1)
        self.scales = nn.ModuleList(
            nn.Sequential(pool, _norm_act_conv(channels, branch, 1)) for pool in (*pools, nn.AdaptiveAvgPool2d(1))
        )
        self.refine = nn.ModuleList(_norm_act_conv(branch, branch, 3) for _ in self.scales)
        self.compress = _norm_act_conv(5 * branch, width, 1)
        self.shortcut = _norm_act_conv(channels, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        levels: list[Tensor] = [self.first(features)]
        for scale, refine in zip(self.scales, self.refine, strict=True):
            levels.append(refine(resize(scale(features), features.shape[2:]) + levels[-1]))
        result: Tensor = self.compress(torch.cat(levels, 1)) + self.shortcut(features)
        return result


class Head(nn.Module):
    """Norm, ReLU, 3x3; norm, ReLU, 1x1 to the scores."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = _norm_act_conv(channels, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.conv2(torch.relu(self.norm(self.conv1(features))))
        return scores


def _basic_blocks(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(BasicBlock(channels, width, stride), BasicBlock(width, width, act=False))


def _shortcut(channels: int, width: int, stride: int) -> nn.Module:
    if stride == 1 and channels == width:
        return nn.Identity()
    return ConvNormAct(channels, width, 1, stride, act=False)


def _norm_act_conv(channels: int, width: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    )
