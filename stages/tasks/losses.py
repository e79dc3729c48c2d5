"""Losses: a weighted sum of terms over the labelled pixels, for softmax and for one sigmoid channel."""

import math
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.errors import ConfigError
from stages.config.losses import Boundary, CrossEntropy, Dice, Focal, Loss, Lovasz, Ohem, OwnLoss
from stages.config.user_code import find_factory, refuse_other_arguments

Averaging = Callable[[Tensor], Tensor]
"""Of a number over all processes, so that each pixel of the global batch counts the same in whichever it lies."""


class SegmentationLoss(nn.Module):
    """Scores BxCxHxW (C = 1: sigmoid) and labels BxHxW to one number. A batch without labelled pixels gives 0.

    The mean over pixels is over all processes for cross-entropy, focal and boundary; the others, which look at a whole
    batch at once, see the batch of their own process. Cross-entropy, ohem and boundary never wait for the GPU.
    """

    def __init__(
        self, terms: Sequence[Loss], ignore_index: int, weights: Sequence[float] | None, averaging: Averaging
    ) -> None:
        super().__init__()
        self._terms, self._ignore, self._average = tuple(terms), ignore_index, averaging
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self._ready = [_ready(term, ignore_index) for term in terms]
        self._modules_of_users = nn.ModuleList(ready for ready in self._ready if isinstance(ready, nn.Module))

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        scores = scores.float()  # under autocast too: sums of many pixels overflow half precision
        total = scores.sum() * 0.0
        for term, ready in zip(self._terms, self._ready, strict=True):
            total = total + term.weight * self._term(term, ready, scores, labels)
        return total

    def _term(self, term: Loss, ready: Any, scores: Tensor, labels: Tensor) -> Any:
        valid = labels != self._ignore
        match term:
            case CrossEntropy():
                return self._mean(
                    self._entropy(term.label_smoothing, scores, labels, valid), self._counts(labels, valid)
                )
            case Boundary():
                emphasis = 1 + (term.boundary_weight - 1) * near_boundaries(labels, term.boundary_px)
                entropy = self._entropy(term.label_smoothing, scores, labels, valid)
                return self._mean(entropy * emphasis, self._counts(labels, valid) * emphasis)
            case Ohem():
                hard = _hard(_surprise(scores, labels, valid), valid, term)
                entropy = self._entropy(term.label_smoothing, scores, labels, valid)
                counts = self._counts(labels, valid)
                return torch.where(hard, entropy, 0).sum() / torch.where(hard, counts, 0).sum().clamp(min=1e-6)
            case Focal():
                return self._of_library(ready, scores, labels, valid) * self._own_share(valid)
            case Dice() | Lovasz():
                return self._of_library(ready, scores, labels, valid)
            case OwnLoss():
                return _one_number(ready(scores, labels), term.kind) if valid.any() else 0.0
            case _:
                assert_never(term)

    def _of_library(self, ready: Any, scores: Tensor, labels: Tensor, valid: Tensor) -> Any:
        return ready(scores, labels if scores.shape[1] > 1 else labels[:, None]) if valid.any() else 0.0

    def _mean(self, pixels: Tensor, counts: Tensor) -> Tensor:
        return pixels.sum() / self._average(counts.sum()).clamp(min=1e-6)

    def _entropy(self, smoothing: float, scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Weighted cross-entropy BxHxW, 0 where ignored."""
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


def _surprise(scores: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    """-log of the probability of each pixel's true class, BxHxW: no class weight and no smoothing belongs in it."""
    scores = scores.detach()
    if scores.shape[1] > 1:
        return F.cross_entropy(scores, torch.where(valid, labels, 0), reduction="none")
    return F.binary_cross_entropy_with_logits(scores[:, 0], (labels == 1).float(), reduction="none")


def _hard(surprise: Tensor, valid: Tensor, term: Ohem) -> Tensor:
    """Labelled pixels under the threshold, and at least the share that is kept, the hardest first.

    How many pixels are labelled only the device knows: so as many as there could be are sorted, and their rank decides.
    """
    found = torch.where(valid, surprise, -1.0).flatten()
    most = max(1, int(term.keep * found.numel()))
    least = (term.keep * valid.sum().double()).long().clamp(min=1)
    hardest = found.topk(most).indices
    among_least = torch.arange(most, device=found.device) < least
    kept = torch.zeros_like(found, dtype=torch.bool).scatter(0, hardest, among_least)
    return valid & (kept.view_as(valid) | (surprise > -math.log(term.threshold)))


def _ready(term: Loss, ignore_index: int) -> Any:
    """The user's loss, or that of segmentation_models_pytorch; None for the losses of this module."""
    match term:
        case OwnLoss():
            return _made_by_user(term, ignore_index)
        case Dice() | Focal() | Lovasz():
            return _of_smp(term, ignore_index)
        case CrossEntropy() | Boundary() | Ohem():
            return None
        case _:
            assert_never(term)


def _made_by_user(term: OwnLoss, ignore_index: int) -> Any:
    factory, arguments = find_factory(term.kind, "train.loss kind"), {"ignore_index": ignore_index, **term.options}
    refuse_other_arguments(factory, arguments, f"train.loss kind = '{term.kind}'")
    made = factory(**arguments)
    if not callable(made):
        raise ConfigError(
            f"train.loss kind = '{term.kind}' made a {type(made).__name__}, wanted a loss that can be called",
            hint="return a module, or a function of scores and labels",
        )
    return made


def _of_smp(term: Dice | Focal | Lovasz, ignore_index: int) -> Any:
    """The library's loss in the form that the scores ask for."""
    from segmentation_models_pytorch import losses  # seconds to import: only for who uses it

    def make(mode: str) -> Any:
        match term:
            case Dice():
                return losses.DiceLoss(mode, ignore_index=ignore_index)
            case Focal():
                return losses.FocalLoss(mode, gamma=term.gamma, ignore_index=ignore_index)
            case Lovasz():
                return losses.LovaszLoss(mode, ignore_index=ignore_index)
            case _:
                assert_never(term)

    forms = {mode: make(mode) for mode in ("binary", "multiclass")}
    return lambda scores, labels: forms["multiclass" if scores.shape[1] > 1 else "binary"](scores, labels)


def _one_number(value: Any, name: str) -> Tensor:
    """What the user's loss gave, if it can be summed and differentiated."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.reshape(())
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise ConfigError(f"train.loss kind = '{name}' gave {found}", hint="return one number, as a tensor")
