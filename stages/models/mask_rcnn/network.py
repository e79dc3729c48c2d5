"""Mask R-CNN with torchvision's own modules, so also its names of weights, around a choice of boxes in fixed shapes.

It answers what torchvision's answers, and says of each frame whether it does: suppression in too few steps, or more
candidates than are looked at, would be another answer. Adopted, not trained here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.image_list import ImageList

from segpipe.errors import ConfigError
from stages.models.mask_rcnn.pooling import Places, Pyramid, Size, canvas_of, pooled
from stages.models.mask_rcnn.rows import Anchors, Proposals, Rows

_PROBES = ((0.0, 0.0, 1.0, 1.0), (0.0, 0.25, 0.5, 0.75), (0.6, 0.1, 0.85, 0.35), (0.4, 0.7, 0.5, 0.8))
"""Places, as parts of the input, that the heads are asked of in every frame, whatever is found: where rows change
places, nothing else tells of a head that is a little too strong."""


_RENAMED = {
    r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$": r"\1.0.\2",
    r"(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
    **{rf"mask_head\.mask_fcn{number + 1}\.": f"mask_head.{number}.0." for number in range(4)},
}
"""What older versions of torchvision, and its published files, call otherwise."""


@dataclass(frozen=True)
class Canvas:
    """What boxes are pooled from: all levels BxCxhxw on one, and where each lies."""

    tensor: Tensor
    pyramid: Pyramid


class StaticMaskRCNN(nn.Module):
    """A tuple: boxes BxKx4, scores BxK, labels BxK, masks BxKxMxM over each box, and the maps of `dense_names`.

    The maps are scores and moves of every anchor, what the heads say of the probes, and whether the rows are all that
    there is (1 or 0). Rows beyond what was found have score 0 and label -1.
    """

    stride = 4
    size_multiple = 32
    masks = "boxed"
    semantic_name = ""
    dense_names = ("anchor_scores", "anchor_moves", "probe_classes", "probe_moves", "probe_masks", "settled")
    settled_name = "settled"
    one_size = "its anchors and how many of them are looked at follow from the size"
    trained_elsewhere = "train torchvision's own, name the file of its weights in [model] trained, `segpipe adopt`"
    encoder_parts = ("backbone",)
    head_parts = ("roi_heads.box_predictor", "roi_heads.mask_predictor")

    def __init__(
        self, whole: MaskRCNN, *, categories: Sequence[int] = (), candidates: int = 1000, steps: int = 24
    ) -> None:
        """`whole`: the network and its settings; `categories`: its numbers of the things that are told, in their order,
        all without any; `candidates`: boxes that the last suppression looks at, `steps`: how often it looks."""
        super().__init__()
        outputs: int = whole.roi_heads.box_predictor.cls_score.out_features
        self.categories = tuple(categories) or tuple(range(1, outputs))
        if not all(0 < number < outputs for number in self.categories):
            hint = f"it has the numbers 1 to {outputs - 1}, 0 is the background"
            raise ConfigError(f"[model] options.categories: {[*self.categories]} are not this network's", hint=hint)
        self.backbone, self.rpn, self.roi_heads = whole.backbone, whole.rpn, whole.roi_heads
        self.decode = Decode(whole, self.categories, candidates, steps)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if self.training:
            raise ConfigError("Mask R-CNN is not trained here", hint=self.trained_elsewhere)
        size = image.shape[2], image.shape[3]
        maps = self._maps(image)
        scores, moves = self.rpn.head([*maps.values()])
        canvas, probes = self._canvas(maps, size), _probes(image, size)
        proposals, real, settled = self.decode.proposals(scores, moves, size)
        told, told_of_probes = self._classes(canvas, proposals, probes)
        boxes, best, labels, complete = self.decode.rows(*told, proposals, real, size)
        shapes, probe_shapes = self._shapes(canvas, boxes, labels, probes)
        dense = (_flat(scores), _flat(moves), *told_of_probes, probe_shapes)
        return (boxes, best, labels, shapes, *dense, (settled & complete).to(image.dtype)[:, None, None, None])

    def modern(self, name: str) -> str:
        """What a tensor of that name is called today."""
        for old, new in _RENAMED.items():
            name = re.sub(old, new, name)
        return name

    def published(self, image: Tensor) -> list[dict[str, Tensor]]:
        """What torchvision's own modules answer, their choice of boxes and all: one dict for each image."""
        sizes = [(image.shape[2], image.shape[3])] * image.shape[0]
        maps = self._maps(image)
        boxes, _ = self.rpn(ImageList(image, sizes), maps)
        found, _ = self.roi_heads(maps, boxes, sizes)
        return [self._as_told(one) for one in found]

    def _as_told(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Only what is of our categories, under their places from 1 on."""
        same = found["labels"][:, None] == torch.tensor(self.categories, device=found["labels"].device)
        kept = {name: values[same.any(1)] for name, values in found.items()}
        return kept | {"labels": same[same.any(1)].long().argmax(1) + 1}

    def _maps(self, image: Tensor) -> Mapping[str, Tensor]:
        """The backbone's levels; one without a pyramid has one."""
        found = self.backbone(image)
        return {"0": found} if isinstance(found, Tensor) else found

    def _canvas(self, maps: Mapping[str, Tensor], size: Size) -> Canvas:
        """The levels that boxes are pooled from."""
        used = [maps[name] for name in maps if name in self.roi_heads.box_roi_pool.featmap_names]
        pyramid = Pyramid.of([(level.shape[2], level.shape[3]) for level in used], size)
        return Canvas(canvas_of(used[: len(pyramid.levels)]), pyramid)

    def _classes(self, canvas: Canvas, boxes: Tensor, probes: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Of boxes, scores BxNxC before a softmax and moves BxNx4C; the same of the probes as BxCx1xP."""
        places = torch.cat([boxes, probes], 1)
        inside = pooled(canvas.tensor, *self.decode.box_places(places, canvas.pyramid))
        answers = self.roi_heads.box_predictor(self.roi_heads.box_head(inside))
        count = boxes.shape[1]
        told = [answer.unflatten(0, (-1, places.shape[1])) for answer in answers]
        of_probes = (answer[:, count:].transpose(1, 2)[:, :, None] for answer in told)
        return tuple(answer[:, :count] for answer in told), tuple(of_probes)

    def _shapes(self, canvas: Canvas, boxes: Tensor, labels: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
        """Masks BxNxMxM of the label of each box, and those of the probes, of the labels in turn: no other class is
        computed."""
        places = torch.cat([boxes, probes], 1)
        inside = pooled(canvas.tensor, *self.decode.mask_places(places, canvas.pyramid))
        predictor = self.roi_heads.mask_predictor
        fine = predictor.relu(predictor.conv5_mask(self.roi_heads.mask_head(inside)))
        last = predictor.mask_fcn_logits
        in_turn = torch.arange(probes.shape[1], device=labels.device) % len(self.categories)
        rows = torch.cat([labels, in_turn.expand(labels.shape[0], -1)], 1).flatten() + 1
        chosen = torch.tensor((0, *self.categories), device=labels.device).index_select(0, rows)
        weight, bias = (F.embedding(chosen, table.flatten(1)) for table in (last.weight, last.bias[:, None]))
        found = torch.matmul(weight[:, None], fine.flatten(2)) + bias[:, None]
        shapes = found.reshape(-1, places.shape[1], *fine.shape[2:])
        return shapes[:, : boxes.shape[1]], shapes[:, boxes.shape[1] :]


class Decode(nn.Module):
    """What counts in coordinates, and compares: FP16 graphs keep all of it in FP32."""

    def __init__(self, whole: MaskRCNN, taken: tuple[int, ...], candidates: int, steps: int) -> None:
        super().__init__()
        cells: Any = whole.rpn.anchor_generator.cell_anchors
        self.proposals = Proposals(whole.rpn, Anchors(tuple(cell.numpy() for cell in cells)), steps)
        self.rows = Rows(whole.roi_heads, taken, candidates, steps)
        self.box_places = Places(whole.roi_heads.box_roi_pool)
        self.mask_places = Places(whole.roi_heads.mask_roi_pool)


def _probes(image: Tensor, size: Size) -> Tensor:
    """Bx4x4 boxes in pixels."""
    sides = image.new_tensor([size[1], size[0], size[1], size[0]])
    return (image.new_tensor(_PROBES) * sides).expand(image.shape[0], -1, -1)


def _flat(levels: list[Tensor]) -> Tensor:
    """BxCxhxw of each level as BxCx1xN, one behind the other."""
    return torch.cat([level.flatten(2) for level in levels], 2)[:, :, None]
