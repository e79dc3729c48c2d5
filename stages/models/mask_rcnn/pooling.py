"""RoIAlign as two matrix products: what no box's place changes the shape of, and every backend takes.

All levels of a pyramid lie on one canvas, the first to the left and the others below one another beside it. A bilinear
sample is a weight on two rows and two columns, so boxes are pooled by a product with the weights of rows and one with
those of columns, each box's on its own level.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign

from segpipe.errors import ConfigError

Size = tuple[int, int]
"""Height and width."""

_MOST_VALUES = 2**26
"""Between the two products; more boxes than that allows are pooled in parts."""


@dataclass(frozen=True)
class Level:
    """A level's place on the canvas, and its cells for a pixel of the input."""

    top: int
    left: int
    height: int
    width: int
    scale: float


@dataclass(frozen=True)
class Pyramid:
    """The levels that boxes are pooled from, the finest first."""

    levels: tuple[Level, ...]
    finest: int
    """The number of the first: 2 for a quarter of the input's side."""

    @classmethod
    def of(cls, sizes: Sequence[Size], image: Size) -> Self:
        """As many levels as their steps say: two of one size count as one, and the first is it."""
        numbers = [-round(math.log2(size[0] / image[0])) for size in sizes]
        used = [*zip(sizes, numbers, strict=True)][: numbers[-1] - numbers[0] + 1]
        ((height, width), finest), *others = used
        levels, top = [Level(0, 0, height, width, 2.0**-finest)], 0
        for (tall, wide), number in others:
            levels.append(Level(top, width, tall, wide, 2.0**-number))
            top += tall
        return cls(tuple(levels), finest)

    @property
    def size(self) -> Size:
        """Height and width of the canvas."""
        edges = [(level.top + level.height, level.left + level.width) for level in self.levels]
        return max(bottom for bottom, _ in edges), max(right for _, right in edges)


def canvas_of(levels: Sequence[Tensor]) -> Tensor:
    """BxCxhxw of each level, laid out so."""
    first, *others = levels
    if not others:
        return first
    wide = max(level.shape[3] for level in others)
    beside = torch.cat([F.pad(level, (0, wide - level.shape[3])) for level in others], 2)
    tall = max(first.shape[2], beside.shape[2])
    return torch.cat([F.pad(side, (0, 0, 0, tall - side.shape[2])) for side in (first, beside)], 3)


class Places(nn.Module):
    """Boxes BxNx4 to weights BxNxSxh of rows and BxNxSxw of columns of the canvas, for S bins a side."""

    def __init__(self, pool: MultiScaleRoIAlign) -> None:
        super().__init__()
        self.side, self.samples = pool.output_size[0], pool.sampling_ratio
        if self.samples < 1:
            raise ConfigError(
                f"RoIAlign with sampling_ratio {self.samples} takes more samples for larger boxes",
                hint="train with 2, as torchvision's own networks do",
            )
        self.canonical = pool.canonical_scale, pool.canonical_level

    def forward(self, boxes: Tensor, pyramid: Pyramid) -> tuple[Tensor, Tensor]:
        number = self._level(boxes, pyramid)
        table = boxes.new_tensor([[*map(float, astuple(level))] for level in pyramid.levels])
        tops, lefts, heights, widths, scales = torch.split(F.embedding(number, table), 1, -1)
        rows = self._weights(boxes[..., 1:4:2] * scales, heights, tops, pyramid.size[0])
        columns = self._weights(boxes[..., 0:3:2] * scales, widths, lefts, pyramid.size[1])
        return rows, columns

    def _level(self, boxes: Tensor, pyramid: Pyramid) -> Tensor:
        """BxN places in the pyramid: a box of twice the side is one level coarser."""
        side, number = self.canonical
        low, high = torch.split(boxes, 2, -1)
        area = (high - low).prod(-1)
        found = torch.floor(number + torch.log2(area.clamp(min=1e-12).sqrt() / side) + 1e-6)
        return (found - pyramid.finest).clamp(0, len(pyramid.levels) - 1).long()

    def _weights(self, edges: Tensor, length: Tensor, offset: Tensor, cells: int) -> Tensor:
        """Of the samples in each bin, averaged; a sample beyond a level's edge takes that of the edge, one more than
        a cell away nothing."""
        low, high = edges[..., :1], edges[..., 1:]
        count = self.side * self.samples
        middles = torch.arange(count, device=edges.device, dtype=edges.dtype) + 0.5
        at = low + middles * ((high - low).clamp(min=1.0) / count)
        inside = ((at >= -1) & (at <= length)).to(edges.dtype)
        place = torch.minimum(at.clamp(min=0), length - 1) + offset
        cell = torch.arange(cells, device=edges.device, dtype=edges.dtype)
        hats = (1 - (place[..., None] - cell).abs()).clamp(min=0) * inside[..., None]
        return hats.reshape(*edges.shape[:-1], self.side, self.samples, cells).mean(-2)


def pooled(canvas: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """BxCxhxw under BxNxSxh and BxNxSxw to (B*N)xCxSxS."""
    most = max(1, _MOST_VALUES // (rows.shape[2] * canvas.shape[1] * canvas.shape[3]))
    if rows.shape[1] <= most:
        return _pooled(canvas, rows, columns).flatten(0, 1)
    parts = zip(torch.split(rows, most, 1), torch.split(columns, most, 1), strict=True)
    return torch.cat([_pooled(canvas, *part) for part in parts], 1).flatten(0, 1)


def _pooled(canvas: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    channels, height, width = canvas.shape[1:]
    count, side = rows.shape[1:3]
    lines = canvas.permute(0, 2, 1, 3).reshape(-1, height, channels * width)
    down = torch.matmul(rows.reshape(-1, count * side, height), lines)
    across = torch.matmul(down.reshape(-1, side * channels, width), columns.flatten(0, 1).transpose(1, 2))
    return across.reshape(-1, count, side, channels, side).permute(0, 1, 3, 2, 4)
