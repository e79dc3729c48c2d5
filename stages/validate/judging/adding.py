"""One answer beside the reference's, into sums: masks, scores, and what rounding alone would do."""

from dataclasses import dataclass, field

import numpy as np

from stages.measuring.masks import Flips, Truth
from stages.measuring.tensors import TensorComparison
from stages.validate.hops.hop import Answered
from stages.validate.judging.checks import Measured
from stages.validate.judging.rounding import REFUSED, ImageRounding


def add_scores(tensors: TensorComparison, reference: Answered, candidate: Answered, where: str) -> None:
    """A candidate that gives no scores where the reference does is as wrong as can be."""
    theirs = np.empty(0) if candidate.scores is None else candidate.scores
    if reference.kept is not None:
        tensors.add(reference.kept.values, reference.kept.of_candidate(theirs), where, whole=theirs)
    elif reference.scores is not None:
        tensors.add(reference.scores, theirs, where)


def add_answer(
    measured: Measured, truth: Truth, reference: Answered, candidate: Answered, where: tuple[str, bool]
) -> Flips:
    """`where`: the image's name, and whether it was made up to strain."""
    name, stress = where
    if measured.things is not None and reference.things is not None and candidate.things is not None and not stress:
        measured.things.add(reference.things, candidate.things, name, getattr(truth, "ids", None))
    add_scores(measured.stress if stress else measured.tensors, reference, candidate, name)
    return (measured.stress_masks if stress else measured.masks).add(truth, candidate.mask, name)


@dataclass
class OwnRounding:
    """Collects what rounding does to each image. An image that the rounded graph refuses tells nothing."""

    measured: Measured
    _counts: list[ImageRounding | None] = field(default_factory=list)

    def add(self, truth: Truth, reference: Answered, rounded: Answered | None, stress: bool) -> None:
        """One image; its error is told at the end, when it is known how large scores usually are."""
        if rounded is None:  # a stress input may be refused, an image may not
            self._counts.append(REFUSED if stress else None)
            return
        where = (str(len(self._counts)), stress)
        flips = add_answer(self.measured, truth, reference, rounded, where)
        self._counts.append(
            ImageRounding(
                stress=stress,
                relative_l2=None,
                pixels=truth.mask.size,
                flips=flips.count,
                band_pixels=int(truth.band.sum()),
                band_flips=flips.count - flips.inside,
            )
        )

    def images(self) -> tuple[ImageRounding | None, ...]:
        """In the order in which they were added; what has NaN or Inf anywhere has no errors."""
        errors: dict[str, float] = {}
        for tensors in (self.measured.tensors, self.measured.stress):
            errors |= {} if tensors.non_finite else tensors.relative_l2s()
        return tuple(
            image and image.model_copy(update={"relative_l2": errors.get(str(number))})
            for number, image in enumerate(self._counts)
        )
