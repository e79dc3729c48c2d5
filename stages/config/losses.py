"""[train] loss: one table a term, told apart by `kind`; a term takes the settings of its own kind and no others."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from stages.config.section import Section, Share

NonNegative = Annotated[float, Field(ge=0)]
OWN = "package.module:factory"


class LossTerm(Section):
    """One loss of a weighted sum. With one output channel (sigmoid) each is taken in its binary form.

    In several processes dice, lovasz, ohem and your own look at the part of the batch that their own process holds:
    give each a few images. The others are means over the whole batch, as in one process.
    """

    kind: str
    weight: PositiveFloat = 1.0
    """What the term counts in the sum."""


class CrossEntropy(LossTerm):
    """Counts each pixel by its class's weight."""

    kind: Literal["cross-entropy"]
    label_smoothing: Share = 0.0
    """The share of a label that is spread over all classes."""


class Ohem(LossTerm):
    """Cross-entropy of the pixels that the network finds hard, by the probability it gives their true class."""

    kind: Literal["ohem"]
    label_smoothing: Share = 0.0
    """The share of a label that is spread over all classes."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.7
    """Pixels whose true class has at least this probability are left out."""
    keep: Share = 0.1
    """The share of the pixels that is kept even so."""


class Boundary(LossTerm):
    """Cross-entropy that counts pixels near other classes more."""

    kind: Literal["boundary"]
    label_smoothing: Share = 0.0
    """The share of a label that is spread over all classes."""
    boundary_px: PositiveInt = 2
    """How near."""
    boundary_weight: PositiveFloat = 5.0
    """What pixels within boundary_px of another class count, the others being 1."""


class Focal(LossTerm):
    """Cross-entropy that plays easy pixels down."""

    kind: Literal["focal"]
    gamma: Annotated[float, Field(ge=0)] = 2.0
    """How strongly."""


class Dice(LossTerm):
    """One minus the overlap of prediction and labels, class by class."""

    kind: Literal["dice"]


class Lovasz(LossTerm):
    """A smooth stand-in for one minus the IoU."""

    kind: Literal["lovasz"]


class OwnLoss(LossTerm):
    """`package.module:factory`: called with `ignore_index` and `options`, gives a callable of scores BxCxHxW in FP32
    (C = 1: sigmoid) and labels BxHxW whose result is one number. It is not called for batches without a label."""

    kind: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field(default_factory=dict)
    """What the factory is called with."""


class ThingWeights(Section):
    """[train.things]: what each part of the loss of things counts in the sum; `loss` says how `semantic` is made."""

    heat: NonNegative = 1.0
    """Centres, by a focal loss."""
    boxes: NonNegative = 2.0
    """GIoU."""
    masks: NonNegative = 2.0
    """Cross-entropy and Dice, where the network gives masks."""
    semantic: NonNegative = 1.0
    """The class of each pixel."""

    @model_validator(mode="after")
    def _finds_things(self) -> "ThingWeights":
        if not (self.heat and self.boxes):
            raise ValueError("without heat and boxes no thing is learnt: give both more than 0")
        return self


def _tag(term: Any) -> str | None:
    """Which table a term is: its kind, and one tag for all kinds that name the user's code."""
    kind = term.get("kind") if isinstance(term, dict) else getattr(term, "kind", None)
    return OWN if isinstance(kind, str) and ":" in kind else kind


Loss = Annotated[
    Annotated[CrossEntropy, Tag("cross-entropy")]
    | Annotated[Dice, Tag("dice")]
    | Annotated[Focal, Tag("focal")]
    | Annotated[Lovasz, Tag("lovasz")]
    | Annotated[Ohem, Tag("ohem")]
    | Annotated[Boundary, Tag("boundary")]
    | Annotated[OwnLoss, Tag(OWN)],
    Discriminator(_tag),
]
