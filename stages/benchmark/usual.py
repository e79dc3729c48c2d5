"""What people do with a network's outputs: scores blown up to the frame, for things a mask as large as the frame."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.models.detection.roi_heads import paste_masks_in_image

from segpipe.contract.schema import AnyContract, Contract, InstanceContract, Placement
from segpipe.id_maps import tight
from segpipe.instances import Instances
from segpipe.runtime.pasting import on_frame
from stages.benchmark.contestants import mask_of
from stages.models import reference

_HALF = 0.5  # torchvision's own: a pixel is of the thing that it is likelier of than not


@dataclass(frozen=True)
class Found:
    """The things of a frame, by falling score."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]
    """NxHxW, each as large as the frame."""
    semantic: NDArray[np.float32] | None


def finished(outputs: Sequence[Tensor], placement: Placement, contract: AnyContract) -> Any:
    """A mask, or the things found, of one frame's outputs in a batch of one."""
    if isinstance(contract, Contract):
        return reference.decide(reference.upsample(outputs[0].float(), placement), contract)
    return _things(dict(zip(contract.output_names, outputs, strict=True)), placement, contract)


def published(found: Mapping[str, Tensor], placement: Placement, contract: AnyContract) -> Found:
    """The things of one frame as torchvision's detectors give them, pasted as it pastes them."""
    kept = found["scores"] >= contract.threshold
    boxes = on_frame(found["boxes"][kept].cpu().numpy(), placement)
    masks = _pasted(found["masks"][kept], boxes, placement.source)
    labels = found["labels"][kept].cpu().numpy() - 1
    return Found(boxes, found["scores"][kept].cpu().numpy(), labels, masks.numpy(), None)


def class_mask(answer: Any, placement: Placement, contract: AnyContract) -> NDArray[Any]:
    """The class of each pixel, to compare with; no part of what is timed."""
    if not isinstance(contract, InstanceContract):
        return answer
    crops = tuple(map(tight, answer.masks)) if contract.masks != "none" else ()
    found = Instances(answer.boxes, answer.scores, answer.labels, crops, contract, placement, semantic=answer.semantic)
    return mask_of(found)


def _things(named: dict[str, Tensor], placement: Placement, contract: InstanceContract) -> Found:
    scores = named[contract.scores_name][0].float()
    kept = torch.nonzero(scores >= contract.threshold)[:, 0]
    boxes = on_frame(named[contract.boxes_name][0][kept].float().cpu().numpy(), placement)
    height, width = placement.source
    masks = torch.zeros(len(kept), height, width, dtype=torch.bool)
    if contract.masks == "canvas" and len(kept):
        whole = reference.upsample(named[contract.masks_name][0][kept][None].float(), placement)[0]
        masks = (whole > 0).cpu()
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[:, : int(np.floor(left))] = False
            mask[:, int(np.ceil(right)) :] = False
            mask[: int(np.floor(top))] = False
            mask[int(np.ceil(bottom)) :] = False
    if contract.masks == "boxed" and len(kept):
        masks = _pasted(named[contract.masks_name][0][kept][:, None].float().sigmoid(), boxes, placement.source)
    semantic = named[contract.semantic_name][0].float().cpu().numpy() if contract.semantic_name else None
    labels = named[contract.labels_name][0][kept].cpu().numpy()
    return Found(boxes, scores[kept].cpu().numpy(), labels.astype(np.int64), masks.numpy(), semantic)


def _pasted(chances: Tensor, boxes: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """NxHxW masks of Nx1xMxM chances, each over its box."""
    pasted: Tensor = paste_masks_in_image(chances.cpu(), torch.from_numpy(boxes), size)
    return pasted[:, 0] > _HALF
