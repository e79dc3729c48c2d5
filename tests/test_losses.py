"""Losses: what each term means, on numbers that can be checked by hand."""

import math
import re
from typing import Any, get_args

import pytest
import torch
from pydantic import Tag, TypeAdapter, ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.errors import ConfigError
from stages.config.losses import OWN, Loss, LossTerm
from stages.tasks.losses import SegmentationLoss, near_boundaries
from tests.children import ROOT
from tests.waits import Waits

IGNORE = 255
_TAGS = [next(mark.tag for mark in get_args(row) if isinstance(mark, Tag)) for row in get_args(get_args(Loss)[0])]
KINDS = [tag for tag in _TAGS if tag != OWN]
"""Every kind that the config takes: a new one is held to every rule below."""

_ALONE = (r"In several processes (.+) and your own look at", r"boundary losses; (.+?) look at the batch of their own")


def loss_of(*terms: Loss, weights: tuple[float, ...] | None = None) -> SegmentationLoss:
    """For one process."""
    return SegmentationLoss(terms, IGNORE, weights, lambda value: value)


def term(kind: str, **options: Any) -> Loss:
    """A term as the config writes it."""
    parsed: Loss = TypeAdapter(Loss).validate_python({"kind": kind, **options})
    return parsed


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


def scores_of(probabilities: list[float]) -> Tensor:
    """Scores of two classes, 1x2x1xN, that give class 0 these probabilities."""
    first = torch.tensor([math.log(p / (1 - p)) for p in probabilities])
    return torch.stack([first, torch.zeros_like(first)])[None, :, None]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, (5.0, 1.0)])
def test_ohem_finds_pixels_hard_by_their_probability_alone(weights: tuple[float, ...] | None, smoothing: float) -> None:
    """At p = 0.90 a pixel is easy for a threshold of 0.7, whatever its class counts."""
    scores, labels = scores_of([0.90, 0.90, 0.90, 0.30]), torch.zeros(1, 1, 4, dtype=torch.long)
    only_hard = loss_of(term("cross-entropy", label_smoothing=smoothing), weights=weights)(
        scores[..., 3:], labels[..., 3:]
    )

    ohem = loss_of(term("ohem", keep=0.25, label_smoothing=smoothing), weights=weights)(scores, labels)

    assert float(ohem) == pytest.approx(float(only_hard), rel=1e-5)


def test_ohem_keeps_its_share_by_probability_too() -> None:
    """The rare class's weight makes its loss the largest, but the network is surer of it."""
    scores = torch.cat([scores_of([0.95, 0.90]), scores_of([0.05])], 3)
    labels = torch.tensor([[[0, 0, 1]]])  # the last pixel's true class has p = 0.95 and weight 9

    ohem = loss_of(term("ohem", keep=0.34, threshold=0.5), weights=(1.0, 9.0))(scores, labels)

    assert float(ohem) == pytest.approx(-math.log(0.90), rel=1e-5)


@pytest.mark.parametrize("page", ["docs/how-to/train.md", "stages/templates/folder.toml"])
def test_every_kind_of_loss_is_named_where_people_choose_one(page: str) -> None:
    (line,) = [line for line in (ROOT / page).read_text().splitlines() if 'loss = [{ kind = "cross-entropy"' in line]
    others = re.findall(r"(?:also|or) ([\w-]+(?:, [\w-]+)*)", line)

    assert sorted([*re.findall(r'kind = "([\w-]+)"', line), *others[-1].split(", ")]) == sorted(KINDS)


def in_two_processes(kind: str, scores: Tensor, labels: Tensor) -> float:
    """The loss of a batch of two images, one in each of two processes."""
    halves = [(scores[number : number + 1], labels[number : number + 1]) for number in (0, 1)]
    counts: list[Tensor] = []

    def counted(value: Tensor) -> Tensor:
        counts.append(value)
        return value

    for half in halves:
        SegmentationLoss([term(kind)], IGNORE, None, counted)(*half)
    mean = sum(counts, torch.zeros(())) / 2
    return sum(float(SegmentationLoss([term(kind)], IGNORE, None, lambda _: mean)(*half)) for half in halves) / 2


def test_the_losses_that_see_their_own_process_alone_are_named_where_people_choose_one(
    batch: tuple[Tensor, Tensor],
) -> None:
    alone = [
        kind for kind in KINDS if in_two_processes(kind, *batch) != pytest.approx(float(loss_of(term(kind))(*batch)))
    ]
    said = [" ".join(text.split()) for text in (LossTerm.__doc__ or "", (ROOT / "docs/how-to/train.md").read_text())]
    settings, page = (re.search(pattern, text) for pattern, text in zip(_ALONE, said, strict=True))

    assert settings
    assert page
    assert sorted(settings[1].split(", ")) == sorted(re.split(", | and ", page[1])) == sorted(alone)


class Forgotten(LossTerm):
    """A kind that only the config knows."""

    label_smoothing: float = 0.0


def test_a_loss_that_only_the_config_knows_is_no_loss() -> None:
    with pytest.raises(AssertionError, match="Forgotten"):
        loss_of(Forgotten(kind="forgotten"))  # type: ignore[arg-type]  # which is why it fails


@pytest.mark.parametrize("options", [{"gamma": 9}, {"keep": 0.5}, {"label_smoothing": 0.1}, {"options": {}}])
def test_a_term_takes_no_setting_of_another_kind(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        term("dice", **options)


class Squares(nn.Module):
    """A loss as users write them: it holds a tensor that must follow it to the GPU."""

    def __init__(self, ignore_index: int, factor: float) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        wanted = F.one_hot(labels.clamp(max=scores.shape[1] - 1), scores.shape[1]).permute(0, 3, 1, 2)
        valid = (labels != self.ignore_index)[:, None]
        return ((scores - wanted) ** 2 * valid).mean() * self.get_buffer("factor")


def unsummed(ignore_index: int) -> Any:
    """A loss that forgets to take a mean."""
    return lambda scores, labels: F.cross_entropy(scores, labels, ignore_index=ignore_index, reduction="none")


def forgetful(ignore_index: int) -> None:
    """A factory that forgets to return its loss."""


def test_a_users_own_loss_is_summed_with_the_others(batch: tuple[Tensor, Tensor]) -> None:
    own = term("tests.test_losses:Squares", weight=2.0, options={"factor": 3.0})
    both = loss_of(term("cross-entropy"), own)

    alone = float(Squares(IGNORE, 3.0)(*batch))
    assert float(both(*batch)) == pytest.approx(float(loss_of(term("cross-entropy"))(*batch)) + 2 * alone, rel=1e-5)
    assert [name for name, _ in both.named_buffers() if name.endswith("factor")], "it moves with the loss"
    assert float(both(batch[0], torch.full_like(batch[1], IGNORE))) == 0.0


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("tests.test_losses:Squares", {"factr": 1}, "train.loss kind = 'tests.test_losses:Squares': "),
        ("tests.test_losses:nowhere", {}, "has no attribute 'nowhere'"),
        ("nowhere:make", {}, "No module named 'nowhere'"),
        ("tests.test_losses:unsummed", {}, "gave a tensor of shape (2, 8, 8). return one number"),
        ("tests.test_losses:forgetful", {}, "made a NoneType, wanted a loss that can be called"),
    ],
)
def test_a_users_loss_that_cannot_be_used_is_named(
    kind: str, options: dict[str, Any], said: str, batch: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ConfigError) as caught:
        loss_of(term(kind, options=options))(*batch)

    assert said in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["cross-entropy", "ohem", "boundary"])
def test_our_own_losses_never_wait_for_the_gpu(kind: str, channels: int, batch: tuple[Tensor, Tensor]) -> None:
    scores = batch[0][:, :channels].clone().requires_grad_()
    labels = batch[1] if channels == 3 else torch.where(batch[1] == 2, 0, batch[1])
    loss = loss_of(term(kind), weights=(1.0, 2.0, 3.0)[: max(2, channels)])
    with Waits() as waits:
        loss(scores, labels).backward()

    assert waits.asked == []


def test_boundaries_are_where_labels_change() -> None:
    labels = torch.zeros(1, 1, 9, dtype=torch.long)
    labels[..., 5:] = 1

    assert near_boundaries(labels, 2).tolist() == [[[0, 0, 0, 1, 1, 1, 1, 0, 0]]]


def test_half_precision_scores_are_summed_in_full(batch: tuple[Tensor, Tensor]) -> None:
    scores = torch.full((1, 3, 512, 512), 20.0, dtype=torch.float16)
    scores[:, 0] = -20.0
    labels = torch.zeros(1, 512, 512, dtype=torch.long)

    assert float(loss_of(term("cross-entropy"))(scores, labels)) == pytest.approx(40 + math.log(2), rel=1e-3)
