"""Which boxes are looked at, and which are answers. Modules of their own, whose nodes carry their names: FP16 graphs
keep them in FP32."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from stages.models.mask_rcnn.pooling import Size
from stages.models.mask_rcnn.suppression import suppress

_NONE = -1e4
"""Of a row that holds no box: below every score before a sigmoid."""
_NO_LABEL = -1


@dataclass(frozen=True)
class Anchors:
    """The boxes that a pyramid's cells begin with: Ax4 around a cell's corner for each level."""

    cells: tuple[NDArray[np.float32], ...]

    def on(self, sizes: Sequence[Size], image: Size) -> list[NDArray[np.float32]]:
        """(h*w*A)x4 of each level, in pixels."""
        return [_laid_out(cell.tobytes(), size, image) for cell, size in zip(self.cells, sizes, strict=True)]


@lru_cache(maxsize=32)
def _laid_out(cell: bytes, size: Size, image: Size) -> NDArray[np.float32]:
    base = np.frombuffer(cell, np.float32).reshape(1, -1, 4)
    y, x = (np.arange(cells, dtype=np.float32) * (pixels // cells) for cells, pixels in zip(size, image, strict=True))
    columns, rows = (axis.reshape(-1) for axis in np.meshgrid(x, y))
    return (np.stack([columns, rows, columns, rows], 1)[:, None] + base).reshape(-1, 4)


class Proposals(nn.Module):
    """Scores BxAxhxw and moves Bx4Axhxw of each level to the likeliest boxes."""

    def __init__(self, rpn: Any, anchors: Anchors, steps: int) -> None:
        """`rpn`: torchvision's, whose settings hold."""
        super().__init__()
        self.anchors, self.steps = anchors, steps
        self.least_px, self.coder, self.threshold = rpn.min_size, rpn.box_coder, rpn.nms_thresh
        self.least_score = rpn.score_thresh
        self.tried, self.most = rpn._pre_nms_top_n["testing"], rpn._post_nms_top_n["testing"]

    def forward(self, scores: Sequence[Tensor], moves: Sequence[Tensor], image: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes BxNx4, whether each is one BxN, and B whether suppression was settled."""
        begun = self.anchors.on([(level.shape[2], level.shape[3]) for level in scores], image)
        best = [self._best(*level, image) for level in zip(scores, moves, begun, strict=True)]
        longest = max(score.shape[1] for score, _ in best)
        score = torch.stack([F.pad(score, (0, longest - score.shape[1]), value=_NONE) for score, _ in best], 1)
        boxes = torch.stack([F.pad(box, (0, 0, 0, longest - box.shape[1])) for _, box in best], 1)
        real = _at_least(boxes, self.least_px)
        if self.least_score > 0:
            real = real & (score.sigmoid() >= self.least_score)
        kept, settled = suppress(boxes, real, self.threshold, self.steps)
        ranked = torch.where(kept, score, _NONE).flatten(1)
        top, index = ranked.topk(min(self.most, ranked.shape[1]))
        return _at(boxes.flatten(1, 2), index), top > _NONE, settled.all(1)

    def _best(self, score: Tensor, moves: Tensor, anchors: NDArray[np.float32], image: Size) -> tuple[Tensor, Tensor]:
        """Of one level: scores Bxn and boxes Bxnx4 by falling score."""
        flat = score.permute(0, 2, 3, 1).flatten(1)
        moved = torch.unflatten(moves, 1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        best, index = flat.topk(min(self.tried, flat.shape[1]))
        begun = F.embedding(index, torch.tensor(anchors, device=score.device))
        return best, moved_boxes(_at(moved, index), begun, self.coder, image)


class Rows(nn.Module):
    """What the box head says of proposals, to the best rows."""

    def __init__(self, heads: Any, taken: tuple[int, ...], candidates: int, steps: int) -> None:
        """`heads`: torchvision's, whose settings hold. `taken`: which of its outputs are labels, in their order."""
        super().__init__()
        self.taken = taken
        self.coder, self.threshold, self.least_score = heads.box_coder, heads.nms_thresh, heads.score_thresh
        self.top, self.steps = heads.detections_per_img, steps
        self.candidates = max(candidates, self.top)

    def forward(
        self, logits: Tensor, moves: Tensor, boxes: Tensor, real: Tensor, image: Size
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of BxNxC, BxNx4C, BxNx4 and BxN: boxes BxKx4, scores BxK, labels BxK (-1 where there is no more), and B
        whether this is all that there is."""
        chances = self._taken(logits.softmax(-1))
        classes = len(self.taken)
        moved = self._taken(torch.unflatten(moves, 2, (-1, 4)))
        every = moved_boxes(moved, boxes[:, :, None], self.coder, image)
        good = (chances > self.least_score) & real[..., None] & _at_least(every, _LEAST_PX)
        ranked = torch.where(good, chances, 0.0).flatten(1)
        score, index = ranked.topk(min(self.candidates, ranked.shape[1]))
        label = index - torch.div(index, classes, rounding_mode="floor") * classes
        box = _at(every.flatten(1, 2), index)
        kept, settled = suppress(box, score > 0, self.threshold, self.steps, label)
        if score.shape[1] < ranked.shape[1]:
            settled = settled & ((score[:, -1] <= 0) | (kept.sum(1) >= self.top))
        best, row = torch.where(kept, score, 0.0).topk(self.top)
        labels = torch.where(best > 0, label.gather(1, row), _NO_LABEL)
        return _at(box, row), best, labels, settled

    def _taken(self, values: Tensor) -> Tensor:
        """Of BxNxC..., those outputs that are labels."""
        first, count = self.taken[0], len(self.taken)
        if self.taken == (*range(first, first + count),):
            return values.narrow(2, first, count)
        return values.index_select(2, torch.tensor(self.taken, device=values.device))


_LEAST_PX = 1e-2
"""torchvision drops boxes of less, a side."""


def moved_boxes(moves: Tensor, boxes: Tensor, coder: Any, image: Size) -> Tensor:
    """...x4 moves of ...x4 boxes, cut at the image's edges."""
    low, high = torch.split(boxes, 2, -1)
    sides = high - low
    shift, growth = torch.split(moves / moves.new_tensor(coder.weights), 2, -1)
    middle = shift * sides + (low + 0.5 * sides)
    half = 0.5 * (growth.clamp(max=coder.bbox_xform_clip).exp() * sides)
    moved = torch.cat([middle - half, middle + half], -1).clamp(min=0)
    return torch.minimum(moved, moves.new_tensor([image[1], image[0], image[1], image[0]]))


def _at_least(boxes: Tensor, side: float) -> Tensor:
    """Whether boxes ...x4 are no smaller."""
    low, high = torch.split(boxes, 2, -1)
    return (high - low).amin(-1) >= side


def _at(values: Tensor, index: Tensor) -> Tensor:
    """BxNxC at BxK places, as BxKxC."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
