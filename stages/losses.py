"""Losses: a weighted sum of terms over the labelled pixels, for softmax and for one sigmoid channel."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.config import LossTerm

Averaging = Callable[[Tensor], Tensor]
"""Of a number over all processes, so that each pixel of the global batch counts the same in whichever it lies."""


class SegmentationLoss(nn.Module):
    """Scores BxCxHxW (C = 1: sigmoid) and labels BxHxW to one number. A batch without labelled pixels gives 0.

    The mean over pixels is over all processes for cross-entropy, focal and boundary; dice, lovasz and ohem, which look
    at a whole batch at once, see the batch of their own process.
    """

    def __init__(
        self, terms: Sequence[LossTerm], ignore_index: int, weights: Sequence[float] | None, averaging: Averaging
    ) -> None:
        super().__init__()
        self._terms, self._ignore, self._average = tuple(terms), ignore_index, averaging
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self._ready = [_from_library(term, ignore_index) for term in terms]

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = scores.float()  # under autocast too: sums of many pixels overflow half precision
        total = scores.sum() * 0.0
        for term, ready in zip(self._terms, self._ready, strict=True):
            loss = self._own(term, scores, labels) if ready is None else self._theirs(term, ready, scores, labels)
            total = total + term.weight * loss
        return total

    def _theirs(self, term: LossTerm, ready: Any, scores: Tensor, labels: Tensor) -> Any:
        valid = labels != self._ignore
        loss = ready(scores, labels if scores.shape[1] > 1 else labels[:, None]) if valid.any() else 0.0
        return loss * self._own_share(valid) if term.kind == "focal" else loss

    def _own(self, term: LossTerm, scores: Tensor, labels: Tensor) -> Tensor:
        valid = labels != self._ignore
        pixels = self._pixelwise(term, scores, labels, valid)
        if term.kind == "ohem":
            return _hardest(pixels, valid, term)
        counts = self._counts(labels, valid)
        if term.kind == "boundary":
            emphasis = 1 + (term.boundary_weight - 1) * near_boundaries(labels, term.boundary_px)
            pixels, counts = pixels * emphasis, counts * emphasis
        return pixels.sum() / self._average(counts.sum()).clamp(min=1e-6)

    def _pixelwise(self, term: LossTerm, scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Weighted cross-entropy BxHxW, 0 where ignored."""
        smoothing = term.label_smoothing
        if scores.shape[1] > 1:
            return F.cross_entropy(
                scores, labels, self.weights, ignore_index=self._ignore, reduction="none", label_smoothing=smoothing
            )
        wanted = (labels == 1).float() * (1 - smoothing) + smoothing / 2
        pixels = F.binary_cross_entropy_with_logits(scores[:, 0], wanted, reduction="none")
        return pixels * self._counts(labels, valid)

    def _counts(self, labels: Tensor, valid: Tensor) -> Tensor:
        """What each pixel counts in the mean: its class's weight, 0 where ignored."""
        if self.weights is None:
            return valid.float()
        return self.weights[torch.where(valid, labels, 0)] * valid

    def _own_share(self, valid: Tensor) -> Tensor:
        """Turns a mean over this process's pixels into its part of the mean over all."""
        own = valid.sum().float()
        return own / self._average(own).clamp(min=1)


def near_boundaries(labels: Tensor, distance: int) -> Tensor:
    """1.0 where another label lies within `distance` pixels, else 0.0. BxHxW."""
    values, side = labels[:, None].float(), 2 * distance + 1
    largest = F.max_pool2d(values, side, 1, distance)
    smallest = -F.max_pool2d(-values, side, 1, distance)
    return (largest != smallest)[:, 0].float()


def _hardest(pixels: Tensor, valid: Tensor, term: LossTerm) -> Tensor:
    """Mean over the pixels above the threshold, and at least the share that is kept."""
    losses = pixels[valid]
    if not losses.numel():
        return pixels.sum()
    kept = losses[losses > -math.log(term.threshold)]
    least = max(1, int(term.keep * losses.numel()))
    return kept.mean() if kept.numel() >= least else losses.topk(least).values.mean()


def _from_library(term: LossTerm, ignore_index: int) -> Any:
    """The losses that segmentation_models_pytorch has, for both forms of output."""
    if term.kind not in {"dice", "focal", "lovasz"}:
        return None
    from segmentation_models_pytorch import losses  # seconds to import: only for who uses it

    makers: dict[str, Any] = {
        "dice": lambda mode: losses.DiceLoss(mode, ignore_index=ignore_index),
        "focal": lambda mode: losses.FocalLoss(mode, gamma=term.gamma, ignore_index=ignore_index),
        "lovasz": lambda mode: losses.LovaszLoss(mode, ignore_index=ignore_index),
    }
    forms = {mode: makers[term.kind](mode) for mode in ("binary", "multiclass")}
    return lambda scores, labels: forms["multiclass" if scores.shape[1] > 1 else "binary"](scores, labels)
