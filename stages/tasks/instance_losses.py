"""Losses of things: a focal loss of their centres, GIoU of their boxes, cross-entropy and Dice of their masks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from segpipe.contract.schema import InstanceContract
from segpipe.id_maps import IDS_A_CLASS, NO_CLASS, UNLABELLED
from stages.config.losses import Loss, ThingWeights
from stages.models.centremask import REACH_PX
from stages.tasks.losses import Averaging, SegmentationLoss

_LEAST_PX = 16
"""Pixels of the crop that a thing must have: of what a crop's edge leaves over nobody could tell what it is."""
_SPREAD = 0.12  # of a centre's blob, as a share of its box's shorter side
_NEAR = tuple((down, across) for down in (-1, 0, 1) for across in (-1, 0, 1))
"""Cells around a centre that answer for its box: a peak one cell off must know it too."""


@dataclass(frozen=True)
class Things:
    """The things of one crop, on the cells of the network's output."""

    masks: Tensor
    """NxHxW shares of each cell."""
    boxes: Tensor
    """Nx4: left, top, right and bottom edge in pixels."""
    labels: Tensor
    """N numbers in `contract.things`."""
    centres: Tensor
    """Nx2 rows and columns of cells."""


class InstanceLoss(nn.Module):
    """The training answer of a network like CentreMask, and id maps BxHxW, to one number.

    Parts of things are means over all things of all processes, so each thing counts the same in whichever batch.
    """

    def __init__(
        self, contract: InstanceContract, terms: Sequence[Loss], averaging: Averaging, weights: ThingWeights
    ) -> None:
        super().__init__()
        self._stride, self._numbers = contract.output_stride, contract.thing_numbers
        self._average, self._weights = averaging, weights
        self._semantic = SegmentationLoss(terms, NO_CLASS, None, averaging)

    def forward(self, answer: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        raw = {name: tensor.float() for name, tensor in answer.items()}
        things = [self._things(own, raw["heat"].shape[2:]) for own in ids]
        found = sum(len(own.labels) for own in things)
        count = self._average(raw["heat"].new_tensor(float(found))).clamp(min=1.0)
        heat, boxes, masks = (raw["heat"].sum() * 0.0 for _ in range(3))
        for number, own in enumerate(things):
            heat = heat + _heat_loss(raw["heat"][number], own, _unsure(ids[number], self._numbers, self._stride))
            if len(own.labels):
                boxes = boxes + _box_loss(raw["reach"][number], own, self._stride)
                if "prototypes" in raw:
                    own_masks = raw["coefficients"][number], raw["prototypes"][number]
                    masks = masks + _mask_loss(*own_masks, own, self._stride)
        w = self._weights
        total: Tensor = (w.heat * heat + w.boxes * boxes + w.masks * masks) / count
        return total + w.semantic * self._class_loss(raw["semantic"], ids)

    def _class_loss(self, semantic: Tensor, ids: Tensor) -> Tensor:
        classes = torch.where(ids == UNLABELLED, NO_CLASS, ids // IDS_A_CLASS)
        scores = F.interpolate(semantic, ids.shape[1:], mode="bilinear", align_corners=False)
        loss: Tensor = self._semantic(scores, classes)
        return loss

    def _things(self, ids: Tensor, cells: torch.Size) -> Things:
        """What an id map holds, but for crumbs."""
        codes, areas = torch.unique(ids, return_counts=True)
        classes = torch.div(codes, IDS_A_CLASS, rounding_mode="floor")
        known = torch.tensor(self._numbers, device=ids.device)
        kept = (codes != UNLABELLED) & (codes % IDS_A_CLASS != 0) & (areas >= _LEAST_PX) & torch.isin(classes, known)
        codes, classes = codes[kept], classes[kept]
        masks = ids[None] == codes[:, None, None]
        boxes = _boxes_of(masks)
        limit = torch.tensor(cells, device=ids.device) - 1
        middle = torch.stack([boxes[:, 1] + boxes[:, 3], boxes[:, 0] + boxes[:, 2]], 1) / 2
        centres = torch.minimum((middle / self._stride).long(), limit)
        labels = (classes[:, None] == known[None]).long().argmax(1)
        small = F.avg_pool2d(masks.float()[:, None], self._stride)[:, 0]
        return Things(small, boxes, labels, centres)


def _boxes_of(masks: Tensor) -> Tensor:
    """NxHxW masks that are not empty to Nx4 edges."""
    rows, columns = masks.any(2).long(), masks.any(1).long()
    edges = [columns.argmax(1), rows.argmax(1)]
    edges += [columns.shape[1] - columns.flip(1).argmax(1), rows.shape[1] - rows.flip(1).argmax(1)]
    return torch.stack(edges, 1).float()


def _unsure(ids: Tensor, numbers: Sequence[int], stride: int) -> Tensor:
    """1.0 on cells where nobody said what is there, or a crowd is: no thing must be missed there, and none found."""
    crowd = torch.stack([ids == number * IDS_A_CLASS for number in numbers]).any(0)
    share: Tensor = F.avg_pool2d(((ids == UNLABELLED) | crowd).float()[None, None], stride)[0, 0]
    return (share > 0.5).float()


def _heat_loss(heat: Tensor, things: Things, unsure: Tensor) -> Tensor:
    """Focal loss of centres: cells beside one count less the nearer they are."""
    wanted = torch.zeros_like(heat)
    rows, columns = _grid(heat)
    for centre, label, box in zip(things.centres, things.labels, things.boxes, strict=True):
        shorter = torch.minimum(box[2] - box[0], box[3] - box[1])
        spread = (_SPREAD * shorter / 4).clamp(min=1.0)
        blob = torch.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * spread**2))
        wanted[label] = torch.maximum(wanted[label], blob)
    chance = heat.sigmoid().clamp(1e-4, 1 - 1e-4)
    centre_loss = (1 - chance) ** 2 * chance.log()
    other_loss = (1 - wanted) ** 4 * chance**2 * (1 - chance).log() * (1 - unsure)
    return -torch.where(wanted == 1.0, centre_loss, other_loss).sum()


def _box_loss(reach: Tensor, things: Things, stride: int) -> Tensor:
    """GIoU of the boxes that the cells around each centre tell."""
    near = torch.tensor(_NEAR, device=reach.device)
    cells = things.centres[:, None] + near[None]
    limits = torch.tensor(reach.shape[1:], device=reach.device)
    inside = ((cells >= 0) & (cells < limits)).all(2)
    row, column = torch.minimum(cells.clamp(min=0), limits - 1).unbind(2)
    left, top, right, bottom = reach[:, row, column] * REACH_PX
    x, y = (stride * (column + 0.5)), (stride * (row + 0.5))
    told = torch.stack([x - left, y - top, x + right, y + bottom], 2)
    true = things.boxes[:, None].expand_as(told)
    losses = generalized_box_iou_loss(told.flatten(0, 1), true.flatten(0, 1)).view(inside.shape)
    total: Tensor = ((losses * inside).sum(1) / inside.sum(1)).sum()
    return total


def _mask_loss(coefficients: Tensor, prototypes: Tensor, things: Things, stride: int) -> Tensor:
    """Cross-entropy and Dice of each mask, within its box and one cell around it."""
    chosen = coefficients[:, things.centres[:, 0], things.centres[:, 1]].transpose(0, 1)
    scores = torch.einsum("np,phw->nhw", chosen, prototypes)
    rows, columns = _grid(prototypes)
    left, top, right, bottom = (things.boxes / stride).unbind(1)
    inside = (rows >= top.floor()[:, None, None] - 1) & (rows < bottom[:, None, None] + 1)
    inside = inside & (columns >= left.floor()[:, None, None] - 1) & (columns < right[:, None, None] + 1)
    weight = inside.float()
    entropy = F.binary_cross_entropy_with_logits(scores, things.masks, reduction="none") * weight
    chance, true = scores.sigmoid() * weight, things.masks * weight
    overlap = (2 * (chance * true).sum((1, 2)) + 1) / (chance.sum((1, 2)) + true.sum((1, 2)) + 1)
    total: Tensor = (entropy.sum((1, 2)) / weight.sum((1, 2)) + 1 - overlap).sum()
    return total


def _grid(like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each cell, hx1 and 1xw."""
    height, width = like.shape[-2:]
    rows, columns = torch.arange(height, device=like.device), torch.arange(width, device=like.device)
    return rows[:, None], columns[None]
