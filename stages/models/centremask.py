"""CentreMask: things as peaks of a heat map, their masks as mixtures of shared prototypes, a class for every pixel.

After CenterNet (peaks), YOLACT (prototypes) and their kin. No threshold and no suppression: the graph is static, so
every backend takes it. One trunk feeds all heads, which all answer at stride 4; sides must be multiples of 32.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.layers import ConvNormAct
from stages.models.skipnet import SkipNet

REACH_PX = 16.0
"""Pixels that a reach of 1 stands for: heads learn numbers of about 1."""
_RARE = -3.0
"""Of the heat's bias: at first hardly any pixel is a thing's centre."""
_NO_PEAK = -20.0
DENSE = ("heat", "reach", "coefficients", "prototypes")
"""What rows are made from, at every place; the last two are the masks'."""


class CentreMask(nn.Module):
    """In training a dict of what the losses compare, at stride 4: `heat`, `reach`, `coefficients`, `prototypes`,
    `semantic`. Else a tuple: boxes BxKx4, scores BxK, labels BxK, masks BxKxhxw, semantic, and the other four.

    With masks "none" there are no masks, coefficients and prototypes. `semantic_name`, `dense_names` and `masks` say
    what a network for things gives; `stride` and `size_multiple` are as every network's.
    """

    stride = 4
    size_multiple = 32
    head_parts = ("heat", "reach", "coefficients", "semantic")
    semantic_name = "semantic"

    def __init__(
        self,
        channels: int,
        classes: int,
        things: int,
        *,
        top: int = 100,
        masks: Literal["canvas", "none"] = "canvas",
        width: int = 16,
        prototypes: int = 16,
    ) -> None:
        super().__init__()
        self.masks = masks
        self.dense_names = DENSE if masks == "canvas" else DENSE[:2]
        wide = 4 * width
        self.trunk = SkipNet(channels, 1, width)
        self.trunk.head = nn.Identity()  # type: ignore[assignment]
        self.tower = nn.Sequential(ConvNormAct(wide, wide), ConvNormAct(wide, wide))
        self.heat = nn.Conv2d(wide, things, 1)
        self.reach = nn.Conv2d(wide, 4, 1)
        if masks == "canvas":
            self.coefficients = nn.Conv2d(wide, prototypes, 1)
            self.prototypes = nn.Sequential(ConvNormAct(wide + 2, wide), nn.Conv2d(wide, prototypes, 1))
        self.semantic = nn.Conv2d(wide, classes, 1)
        self.decode = Decode(top, self.stride)
        nn.init.constant_(self.heat.bias, _RARE)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        features = self.trunk(image)
        tower = self.tower(features)
        raw = {
            "heat": self.heat(tower),
            "reach": F.softplus(self.reach(tower)),
        }
        if self.masks == "canvas":
            raw["coefficients"] = torch.tanh(self.coefficients(tower))
            raw["prototypes"] = self.prototypes(torch.cat([features, _places(features)], 1))
        raw["semantic"] = self.semantic(features)
        if self.training:
            return raw
        maps = tuple(raw[name] for name in self.dense_names)
        scores, labels, boxes, *chosen_ = self.decode(*maps[:3])
        if self.masks == "none":
            return (boxes, scores, labels, raw["semantic"], *maps)
        chosen, shapes = chosen_[0], raw["prototypes"]
        masks = torch.matmul(chosen, shapes.flatten(2)).reshape(shapes.shape[0], -1, *shapes.shape[2:])
        return (boxes, scores, labels, masks, raw["semantic"], *maps)


class Decode(nn.Module):
    """Peaks to the best rows. A module of its own, whose nodes carry its name: FP16 graphs keep it in FP32."""

    def __init__(self, top: int, stride: int) -> None:
        super().__init__()
        self.top, self.stride = top, stride

    def forward(self, heat: Tensor, reach: Tensor, *coefficients: Tensor) -> tuple[Tensor, ...]:
        """Scores BxK, labels BxK, boxes BxKx4 in pixels of the input, and coefficients BxKxP where there are some.

        Peaks are looked for among scores before the sigmoid, where fewer of them tie.
        """
        height, width = heat.shape[2:]
        is_peak = heat == F.max_pool2d(heat, 3, 1, 1)
        best, index = torch.where(is_peak, heat, torch.full_like(heat, _NO_PEAK)).flatten(1).topk(self.top)
        labels = torch.div(index, height * width, rounding_mode="floor")
        place = index - labels * (height * width)
        row = torch.div(place, width, rounding_mode="floor")
        column = place - row * width
        left, top, right, bottom = (_at(reach, place) * REACH_PX).unbind(2)
        x, y = (self.stride * (cells.to(heat.dtype) + 0.5) for cells in (column, row))
        boxes = torch.stack([x - left, y - top, x + right, y + bottom], 2)
        return (best.sigmoid(), labels, boxes, *(_at(values, place) for values in coefficients))


def _at(values: Tensor, place: Tensor) -> Tensor:
    """BxCxhxw at BxK places, as BxKxC."""
    return values.flatten(2).gather(2, place[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2)


def _places(features: Tensor) -> Tensor:
    """Bx2xhxw: where each cell is, from -1 to 1; two equal things at two places need masks of their own."""
    batch, _, height, width = features.shape
    down = (torch.arange(height, device=features.device, dtype=features.dtype) + 0.5) * (2 / height) - 1
    across = (torch.arange(width, device=features.device, dtype=features.dtype) + 0.5) * (2 / width) - 1
    rows = down[None, None, :, None].expand(batch, 1, height, width)
    columns = across[None, None, None].expand(batch, 1, height, width)
    return torch.cat([rows, columns], 1)
