"""The contract in PyTorch: the definition that the runtime's numpy and CUDA forms are held to."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.contract.schema import HALF_PIXEL, Contract, FrameContract, Placement
from segpipe.runtime.resizing import resized_as


def preprocess(
    frame: NDArray[Any], contract: FrameContract, placement: Placement, device: torch.device | None = None
) -> Tensor:
    """HxWxC pixels to a 1xCxHxW float32 tensor (1xHxWxC where the network wants it), computed on `device`.

    Resizes of other libraries are theirs: there is no second form of them.
    """
    if contract.resize != HALF_PIXEL:
        frame = resized_as(contract.resize, frame, placement.resized)
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).to(device).float().permute(2, 0, 1)[None]
    if tuple(pixels.shape[2:]) != placement.resized:
        pixels = F.interpolate(pixels, placement.resized, mode="bilinear", align_corners=False, antialias=False)
    if contract.channel_order == "bgr":
        pixels = pixels.flip(1)
    low, high = contract.value_range
    mean = torch.tensor(contract.mean, dtype=torch.float32, device=device).view(1, -1, 1, 1)
    std = torch.tensor(contract.std, dtype=torch.float32, device=device).view(1, -1, 1, 1)
    (top, left), (height, width) = placement.offset, placement.resized
    bars = left, placement.canvas[1] - left - width, top, placement.canvas[0] - top - height
    if contract.padding is not None:
        pixels, bars = F.pad(pixels, bars, value=contract.padding), (0, 0, 0, 0)
    pixels = ((pixels - low) / (high - low) - mean) / std
    pixels = F.pad(pixels, bars)
    return pixels if contract.input_layout == "nchw" else pixels.permute(0, 2, 3, 1)


def upsample(scores: Tensor, placement: Placement) -> Tensor:
    """1xCxhxw scores to 1xCxHxW at the source size: bilinear, half-pixel centres, one step."""
    if placement.resized == placement.canvas:
        return F.interpolate(scores, placement.source, mode="bilinear", align_corners=False)
    for axis in (0, 1):
        scores = _upsample_axis(scores, placement, axis)
    return scores


def decide(scores: Tensor, contract: Contract) -> NDArray[Any]:
    """1xCxHxW full-size scores to an HxW mask."""
    mask = scores[0, 0] >= contract.limit if contract.limit is not None else scores[0].argmax(0)
    return mask.cpu().numpy().astype(contract.mask_dtype)


@torch.inference_mode()
def segment(network: nn.Module, frame: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """Frame to mask by the definition."""
    placement = contract.place(*frame.shape[:2])
    device = next(network.parameters()).device
    scores = network(preprocess(frame, contract, placement).to(device))
    return decide(upsample(scores, placement), contract)


def _upsample_axis(scores: Tensor, placement: Placement, axis: int) -> Tensor:
    """Interpolate one spatial axis where the frame covers only part of the canvas."""
    dim, length = axis + 2, scores.shape[axis + 2]
    centres = torch.arange(placement.source[axis], dtype=torch.float64, device=scores.device) + 0.5
    on_canvas = centres * (placement.resized[axis] / placement.source[axis]) + placement.offset[axis]
    position = (on_canvas * (length / placement.canvas[axis]) - 0.5).clamp(0, length - 1)
    first = position.floor().long()
    second = (first + 1).clamp(max=length - 1)
    weight = (position - first).float().view([-1, 1] if axis == 0 else [-1])
    return scores.index_select(dim, first) * (1 - weight) + scores.index_select(dim, second) * weight
