"""Losses: what each term means, on numbers that can be checked by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stages.config import LossTerm
from stages.losses import SegmentationLoss, near_boundaries

IGNORE = 255
KINDS = ("cross-entropy", "dice", "focal", "lovasz", "ohem", "boundary")


def loss_of(*terms: LossTerm, weights: tuple[float, ...] | None = None) -> SegmentationLoss:
    """For one process."""
    return SegmentationLoss(terms, IGNORE, weights, lambda value: value)


def term(kind: Any, **options: Any) -> LossTerm:
    """A term by its name."""
    return LossTerm(kind=kind, **options)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Scores of three classes for two images, some pixels ignored."""
    torch.manual_seed(1)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, :2] = IGNORE
    return torch.randn(2, 3, 8, 8), labels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_cost_less_than_wrong_ones(kind: str, channels: int, batch: tuple[Tensor, Tensor]) -> None:
    labels = batch[1] if channels == 3 else torch.where(batch[1] == 2, 0, batch[1])
    truth = torch.where(labels == IGNORE, 0, labels)
    right = F.one_hot(truth, 3).permute(0, 3, 1, 2) * 9.0 if channels == 3 else (truth * 18.0 - 9.0)[:, None]
    loss = loss_of(term(kind))

    assert 0 <= float(loss(right, labels)) < 0.2 < float(loss(-right, labels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_ignored_pixels_change_nothing_and_get_no_gradient(
    kind: str, channels: int, batch: tuple[Tensor, Tensor]
) -> None:
    labels = batch[1] if channels == 3 else torch.where(batch[1] == 2, 0, batch[1])
    scores = batch[0][:, :channels].clone().requires_grad_()
    loss = loss_of(term(kind))
    value = loss(scores, labels)
    value.backward()
    other = scores.detach().clone()
    other[0, :, :2] += 5

    assert scores.grad is not None
    assert not scores.grad[0, :, :2].any()
    assert scores.grad.abs().sum() > 0
    assert float(loss(other, labels)) == pytest.approx(float(value.detach()))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_labels_costs_nothing(kind: str, channels: int) -> None:
    scores = torch.randn(1, channels, 4, 4, requires_grad=True)
    value = loss_of(term(kind), weights=(0.5, 2.0, 1.0)[: max(2, channels)])(scores, torch.full((1, 4, 4), IGNORE))
    value.backward()

    assert float(value.detach()) == 0.0
    assert scores.grad is not None
    assert (scores.grad == 0).all()  # which NaN is not


@pytest.mark.parametrize("kind", KINDS)
def test_nan_scores_are_a_nan_loss_whatever_the_labels(kind: str, batch: tuple[Tensor, Tensor]) -> None:
    """Training must see it: a batch that costs nothing must not hide a network that broke."""
    broken = torch.full_like(batch[0], torch.nan)

    assert math.isnan(float(loss_of(term(kind))(broken, batch[1])))
    assert math.isnan(float(loss_of(term(kind))(broken, torch.full_like(batch[1], IGNORE))))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighted_cross_entropy_is_pytorchs(smoothing: float, batch: tuple[Tensor, Tensor]) -> None:
    weights = (1.0, 2.0, 0.5)
    ours = loss_of(term("cross-entropy", label_smoothing=smoothing), weights=weights)(*batch)
    theirs = F.cross_entropy(*batch, torch.tensor(weights), ignore_index=IGNORE, label_smoothing=smoothing)

    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_binary_cross_entropy_is_that_of_two_classes(batch: tuple[Tensor, Tensor]) -> None:
    """A sigmoid of s is a softmax of (0, s)."""
    scores, labels = batch[0][:, :1], torch.where(batch[1] == 2, 1, batch[1])
    two = torch.cat([torch.zeros_like(scores), scores], 1)
    loss = loss_of(term("cross-entropy"), weights=(1.0, 3.0))

    assert float(loss(scores, labels)) == pytest.approx(float(loss(two, labels)), rel=1e-5)


def test_terms_add_up_by_their_weights(batch: tuple[Tensor, Tensor]) -> None:
    both = loss_of(term("cross-entropy", weight=2.0), term("dice", weight=0.5))(*batch)
    parts = [float(loss_of(term(kind))(*batch)) for kind in ("cross-entropy", "dice")]

    assert float(both) == pytest.approx(2 * parts[0] + 0.5 * parts[1], rel=1e-5)


def test_ohem_keeps_the_hard_pixels_and_at_least_its_share() -> None:
    scores = torch.zeros(1, 2, 1, 10)
    scores[0, 0, 0, :] = 5.0  # sure of class 0
    labels = torch.zeros(1, 1, 10, dtype=torch.long)
    labels[0, 0, 0] = 1
    hard, easy = math.log1p(math.exp(5)), math.log1p(math.exp(-5))

    assert float(loss_of(term("ohem", keep=0.1))(scores, labels)) == pytest.approx(hard, rel=1e-5)
    assert float(loss_of(term("ohem", keep=0.2))(scores, labels)) == pytest.approx((hard + easy) / 2, rel=1e-5)


def test_boundaries_are_where_labels_change() -> None:
    labels = torch.zeros(1, 1, 9, dtype=torch.long)
    labels[..., 5:] = 1

    assert near_boundaries(labels, 2).tolist() == [[[0, 0, 0, 1, 1, 1, 1, 0, 0]]]


def test_half_precision_scores_are_summed_in_full(batch: tuple[Tensor, Tensor]) -> None:
    scores = torch.full((1, 3, 512, 512), 20.0, dtype=torch.float16)
    scores[:, 0] = -20.0
    labels = torch.zeros(1, 512, 512, dtype=torch.long)

    assert float(loss_of(term("cross-entropy"))(scores, labels)) == pytest.approx(40 + math.log(2), rel=1e-3)
