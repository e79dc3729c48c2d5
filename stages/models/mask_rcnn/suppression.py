"""Greedy suppression of overlapping boxes in a fixed number of matrix products, so that a graph of it is static.

A box is kept if no kept box of higher score overlaps it. Asked of all boxes at once, with what was kept the last time,
that settles from the top down: after n times every chain of up to n suppressions is right, and what no longer changes
is the greedy answer.
"""

import torch
from torch import Tensor


def suppress(
    boxes: Tensor, real: Tensor, threshold: float, steps: int, groups: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Of boxes ...xNx4 by falling score: ...xN whether each is kept, and ... whether nothing was left to change.

    Boxes that are not `real` suppress nobody and are not kept; boxes of different `groups` ...xN never meet.
    """
    beats = _overlap(boxes, threshold) & _before(boxes) & real[..., :, None]
    if groups is not None:
        beats = beats & (groups[..., :, None] == groups[..., None, :])
    beaten_by = beats.to(boxes.dtype)
    kept = last = torch.ones_like(boxes[..., None, :, 0])
    for _ in range(steps):
        last, kept = kept, (torch.matmul(kept, beaten_by) < 0.5).to(boxes.dtype)
    settled = (kept - last).abs().amax((-2, -1)) < 0.5
    return (kept[..., 0, :] > 0.5) & real, settled


def _overlap(boxes: Tensor, threshold: float) -> Tensor:
    """...xNxN: whether what two boxes share is more than this part of what they cover."""
    low, high = (corner.transpose(-1, -2) for corner in torch.split(boxes, 2, -1))
    sides = torch.minimum(high[..., :, None], high[..., None, :]) - torch.maximum(low[..., :, None], low[..., None, :])
    both = sides.clamp(min=0).prod(-3)
    area = (high - low).prod(-2)
    return both > threshold * (area[..., :, None] + area[..., None, :] - both)


def _before(boxes: Tensor) -> Tensor:
    """NxN: whether the first is before the second."""
    place = torch.arange(boxes.shape[-2], device=boxes.device)
    return place[:, None] < place[None]
