"""The core of the gate: images through the reference and every hop, one at a time, into sums."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from segpipe.contract.schema import AnyContract
from segpipe.errors import SegpipeError
from stages.config.root import ValidateConfig
from stages.measuring.masks import Agreement, Flips, Truth
from stages.measuring.tensors import TensorComparison
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.inputs import Image, Size
from stages.validate.judging.adding import OwnRounding, add_answer, add_scores
from stages.validate.judging.again import Repeat, add_batch, answered_by, answered_twice
from stages.validate.judging.aside import set_aside
from stages.validate.judging.checks import Check, Measured, Peak, verdict_of
from stages.validate.judging.rounding import ImageRounding, Rounding
from stages.validate.judging.rules import ALLOWED
from stages.validate.judging.tasks import GateTask, gate_task_of


@dataclass(frozen=True)
class Setup:
    """What judging needs to know."""

    contract: AnyContract
    settings: ValidateConfig
    batches: tuple[int, ...] = (8,)
    """Batch sizes to hold against single frames: the typical and the largest of each profile."""
    sizes: tuple[Size, ...] = ()
    """Of the profiles, where the network follows the frame's."""
    peak: Peak | None = None
    """What the FP16 graph holds in FP16 gets this large."""
    rounding: Rounding | None = None
    """What rounding alone does on the images, where the gate that stored them has measured it."""
    accuracy: bool = False
    """Whether the images are all of the gate's, so that the floors of accuracy mean something."""

    @cached_property
    def gate(self) -> GateTask:
        """How the network's task compares answers."""
        return gate_task_of(self.contract, self.settings)


@dataclass(frozen=True)
class Seen:
    """One image as a hop answered it, for pictures and suspicions."""

    hop: str
    image: Image
    reference: Answered
    candidate: Answered
    flips: Flips

    @property
    def weight(self) -> tuple[int, int]:
        """Worst first: flips inside objects weigh more than flips at their borders."""
        return (self.flips.inside, self.flips.count)

    def aside(self) -> "Seen":
        """To be kept for long."""
        return replace(self, reference=set_aside(self.reference), candidate=set_aside(self.candidate))


@dataclass
class HopState:
    """Everything measured of one hop so far."""

    hop: Hop
    measured: Measured
    before: TensorComparison = field(default_factory=TensorComparison)
    before_masks: Agreement = field(default_factory=Agreement)
    before_name: str = "reference"
    stress_errors: dict[str, str] = field(default_factory=dict)
    repeats: list[Repeat] = field(default_factory=list)
    late: Agreement = field(default_factory=Agreement)
    """With what the reference answered to the image before."""
    batch_order: tuple[int, ...] = ()
    """Whose answer each frame of a batch got, where they got each other's."""
    worst: Seen | None = None
    worst_stress: Seen | None = None

    @property
    def answers(self) -> bool:
        """Whether it may still be asked."""
        return not self.measured.unanswered

    def checks(self, setup: Setup) -> list[Check]:
        """Every limit compared with what was measured."""
        return self._fidelity(setup) + (setup.gate.accuracy(self.measured) if setup.accuracy else [])

    def differs(self, setup: Setup) -> bool:
        """Whether a limit of fidelity fails: then there is something to explain."""
        return verdict_of(self._fidelity(setup)) == "failed"

    def _fidelity(self, setup: Setup) -> list[Check]:
        return setup.gate.fidelity(self.measured, self.hop)


Watcher = Callable[[Seen], None]


class Judge:
    """Feed it images with `add`, then read `states`. Each image is answered once by every hop."""

    def __init__(
        self,
        setup: Setup,
        reference: Answer,
        hops: Sequence[Hop],
        watch: Watcher | None = None,
        rounded: Hop | None = None,
    ) -> None:
        """`rounded`: the network with nothing but its results rounded, one of the hops or beside them."""
        self.states = {hop.name: HopState(hop, setup.gate.nothing(setup.peak)) for hop in hops}
        self.network_seconds = self.measure_seconds = 0.0
        self._setup, self._reference, self._watch = setup, reference, watch
        self._batch: list[NDArray[Any]] = []
        self._before: NDArray[Any] | None = None
        self._rounded, self._own = rounded, OwnRounding(setup.gate.nothing(None))

    def add(self, image: Image) -> Answered:
        """One image through everything; returns the reference's answer."""
        started = time.perf_counter()
        answered = self._reference([image.frame])[0]
        candidates = {name: self._answer(state, image) for name, state in self.states.items() if state.answers}
        rounded = self._answer_rounded(image, candidates)
        between = time.perf_counter()
        truth = self._setup.gate.truth(answered, image.labels)
        self._measure(image, answered, candidates, truth)
        if self._rounded is not None:
            self._own.add(truth, answered, rounded, image.stress)
        if not image.stress and len(self._batch) < max(self._setup.batches, default=1):
            self._batch.append(image.frame)
        self.network_seconds += between - started
        self.measure_seconds += time.perf_counter() - between
        return answered

    def finish(self) -> None:
        """Batches against single frames, the same frame twice, and what rounding alone has done."""
        known = Rounding.over(self.roundings()) if self._rounded else self._setup.rounding
        for state in self.states.values():
            state.measured.rounding = known
            if state.answers and self._batch:
                _finish_hop(state, self._batch, self._setup.batches)

    def roundings(self) -> tuple[ImageRounding | None, ...]:
        """What rounding did to each image, in their order; None where nothing is known of it."""
        return self._own.images()

    def _answer(self, state: HopState, image: Image) -> Answered | None:
        """None where the hop refused the frame. A refused stress input is told; a refused image breaks the hop."""
        try:
            return answered_by(state.hop, [image.frame])[0]
        except SegpipeError as error:
            if image.stress:
                state.stress_errors[image.name] = str(error)
            else:
                state.measured.unanswered = f"{image.name}: {error}"
            return None

    def _answer_rounded(self, image: Image, candidates: dict[str, Answered | None]) -> Answered | None:
        if self._rounded is None:
            return None
        if self._rounded.name in self.states:
            return candidates.get(self._rounded.name)
        try:
            return answered_by(self._rounded, [image.frame])[0]
        except SegpipeError:  # limits stay as they are set
            return None

    def _measure(self, image: Image, answered: Answered, candidates: dict[str, Answered | None], truth: Truth) -> None:
        before, before_name = answered, "reference"
        for name, candidate in candidates.items():
            if candidate is None:
                continue
            state = self.states[name]
            ours = answered if state.hop.gives_scores else Answered(answered.mask, None)
            state.measured.response.add(image, ours, candidate, self._setup.contract)
            if ALLOWED[state.hop.precision].calibration_rise:
                state.measured.certainty.add(image, ours, candidate, self._setup.contract)
            flips = add_answer(state.measured, truth, ours, candidate, (image.name, image.stress))
            _add_before(state, before, before_name, candidate, image.name)
            if not image.stress and self._before is not None and self._before.shape == candidate.mask.shape:
                state.late.add(self._before, candidate.mask)
            seen = Seen(name, image, answered, candidate, flips)
            _keep_worst(state, seen)
            if self._watch and not image.stress:
                self._watch(seen)
            before, before_name = candidate, name
        self._before = answered.mask


def _finish_hop(state: HopState, frames: Sequence[NDArray[Any]], batches: Sequence[int]) -> None:
    """The same frame twice, and batches of the frames that have one size."""
    alike = [frame for frame in frames if frame.shape == frames[0].shape]
    try:
        state.repeats.append(answered_twice(state.hop, alike[0]))
        for count in batches:
            if count > 1:
                order = add_batch(state.hop, alike, count, state.measured)
                state.batch_order = state.batch_order or order
    except SegpipeError as error:
        largest = max(batches, default=1)
        asked = f"a batch of up to {largest}" if largest > 1 else "the first image again"
        state.measured.unanswered = f"{asked}: {error}"


def _keep_worst(state: HopState, seen: Seen) -> None:
    """Of images the one with most flips, of stress inputs the one with NaN or the greatest error."""
    name, stress = seen.image.name, state.measured.stress
    if not seen.image.stress:
        if state.worst is None or seen.weight > state.worst.weight:
            state.worst = seen.aside()
    elif name in {stress.non_finite_at, "" if stress.non_finite_at else stress.worst_at}:
        state.worst_stress = seen.aside()


def _add_before(state: HopState, before: Answered, name: str, candidate: Answered, image: str) -> None:
    state.before_name = name
    state.before_masks.add(before.mask, candidate.mask)
    if state.hop.gives_scores:
        add_scores(state.before, before, candidate, image)
