"""Layers that several networks of this package share."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNormAct(nn.Sequential):
    """Convolution without bias (padded to keep the size at stride 1), batch norm, ReLU unless `act` is off."""

    def __init__(
        self, channels: int, width: int, kernel: int = 3, stride: int = 1, groups: int = 1, *, act: bool = True
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(width),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if act else []))


class ExportableAdaptivePool(nn.Module):
    """`AdaptiveAvgPool2d(bins)` as two matrix products, so that it exports at every size, also an open one."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, features: Tensor) -> Tensor:
        rows = self._weights(features.shape[2], features)
        columns = self._weights(features.shape[3], features)
        return torch.matmul(torch.matmul(rows, features), columns.transpose(0, 1))

    def _weights(self, length: int, like: Tensor) -> Tensor:
        """bins x length: each row averages the cells floor(i L / bins) to ceil((i + 1) L / bins)."""
        edges = torch.arange(self.bins, device=like.device)[:, None]
        cells = torch.arange(length, device=like.device)[None]
        first = torch.div(edges * length, self.bins, rounding_mode="floor")
        last = torch.div((edges + 1) * length + self.bins - 1, self.bins, rounding_mode="floor")
        inside = ((cells >= first) & (cells < last)).to(like.dtype)
        return inside / inside.sum(1, keepdim=True)


def resize(features: Tensor, size: Any) -> Tensor:
    """Bilinear with half-pixel centres."""
    return F.interpolate(features, size, mode="bilinear", align_corners=False)
