"""The core of the gate: images through the reference and every hop, one at a time, into sums."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError, SegpipeError
from stages.config.root import ValidateConfig
from stages.measuring.masks import Agreement, Flips, Truth
from stages.measuring.tensors import TensorComparison
from stages.tasks import GateTask, gate_task_of
from stages.validate.hops.hop import Answer, Answered, Hop
from stages.validate.hops.inputs import Image, Size
from stages.validate.judging.checks import Check, Measured, Peak, verdict_of


@dataclass(frozen=True)
class Setup:
    """What judging needs to know."""

    contract: Contract
    settings: ValidateConfig
    batches: tuple[int, ...] = (8,)
    """Batch sizes to hold against single frames: the typical and the largest of each profile."""
    sizes: tuple[Size, ...] = ()
    """Of the profiles, where the network follows the frame's."""
    peak: Peak | None = None
    """What the FP16 graph holds in FP16 gets this large."""
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


@dataclass(frozen=True)
class Repeat:
    """What a second run of the same frame gave."""

    image: str
    differing_pixels: int
    differing_scores: int
    largest_difference: float

    @property
    def same(self) -> bool:
        """Byte for byte."""
        return not self.differing_pixels and not self.differing_scores


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

    def __init__(self, setup: Setup, reference: Answer, hops: Sequence[Hop], watch: Watcher | None = None) -> None:
        self.states = {hop.name: HopState(hop, setup.gate.nothing(setup.peak)) for hop in hops}
        self.network_seconds = self.measure_seconds = 0.0
        self._setup, self._reference, self._watch = setup, reference, watch
        self._batch: list[NDArray[Any]] = []

    def add(self, image: Image) -> Answered:
        """One image through everything; returns the reference's answer."""
        started = time.perf_counter()
        answered = self._reference([image.frame])[0]
        candidates = {name: self._answer(state, image) for name, state in self.states.items() if state.answers}
        between = time.perf_counter()
        self._measure(image, answered, candidates)
        if not image.stress and len(self._batch) < max(self._setup.batches, default=1):
            self._batch.append(image.frame)
        self.network_seconds += between - started
        self.measure_seconds += time.perf_counter() - between
        return answered

    def finish(self) -> None:
        """Batches against single frames, and the same frame twice."""
        for state in self.states.values():
            if state.answers and self._batch:
                self._finish_hop(state)

    def _answer(self, state: HopState, image: Image) -> Answered | None:
        """None where the hop refused the frame. A refused stress input is told; a refused image breaks the hop."""
        try:
            return _answered(state.hop, [image.frame])[0]
        except SegpipeError as error:
            if image.stress:
                state.stress_errors[image.name] = str(error)
            else:
                state.measured.unanswered = f"{image.name}: {error}"
            return None

    def _measure(self, image: Image, answered: Answered, candidates: dict[str, Answered | None]) -> None:
        truth = self._setup.gate.truth(answered, image.labels)
        before, before_name = answered, "reference"
        for name, candidate in candidates.items():
            if candidate is None:
                continue
            state = self.states[name]
            flips = _add(state, truth, image, answered, candidate)
            _add_before(state, before, before_name, candidate, image.name)
            seen = Seen(name, image, answered, candidate, flips)
            _keep_worst(state, seen)
            if self._watch and not image.stress:
                self._watch(seen)
            before, before_name = candidate, name

    def _finish_hop(self, state: HopState) -> None:
        frames = [frame for frame in self._batch if frame.shape == self._batch[0].shape]
        try:
            alone = [_answered(state.hop, [frame])[0] for frame in frames]
            state.repeats.append(_repeat(alone[0], _answered(state.hop, frames[:1])[0]))
            for count in self._setup.batches:
                if count > 1:
                    together = _answered(state.hop, list(islice(cycle(frames), count)))
                    _add_batch(state, list(islice(cycle(alone), count)), together)
        except SegpipeError as error:
            largest = max(self._setup.batches, default=1)
            asked = f"a batch of up to {largest}" if largest > 1 else "the first image again"
            state.measured.unanswered = f"{asked}: {error}"


def _answered(hop: Hop, frames: Sequence[NDArray[Any]]) -> list[Answered]:
    """An answer to each frame, of its size."""
    found = hop.answer(frames)
    wanted, given = [frame.shape[:2] for frame in frames], [answered.mask.shape for answered in found]
    if wanted != given:
        raise InputError(f"masks are {given} for frames of {wanted}", hint="report this as a bug")
    return found


def _add_batch(state: HopState, alone: Sequence[Answered], together: Sequence[Answered]) -> None:
    for one, many in zip(alone, together, strict=True):
        state.measured.batch_masks.add(one.mask, many.mask)
        _add_scores(state.hop, state.measured.batches, (one, many), f"a batch of {len(together)}")


def _add_scores(hop: Hop, tensors: TensorComparison, pair: tuple[Answered, Answered], where: str) -> None:
    """A candidate that gives no scores where it should and the reference does is as wrong as can be."""
    reference, candidate = pair
    if hop.gives_scores and reference.scores is not None:
        tensors.add(reference.scores, np.empty(0) if candidate.scores is None else candidate.scores, where)


def _add(state: HopState, truth: Truth, image: Image, answered: Answered, candidate: Answered) -> Flips:
    measured = state.measured
    masks = measured.stress_masks if image.stress else measured.masks
    tensors = measured.stress if image.stress else measured.tensors
    _add_scores(state.hop, tensors, (answered, candidate), image.name)
    return masks.add(truth, candidate.mask, image.name)


def _keep_worst(state: HopState, seen: Seen) -> None:
    """Of images the one with most flips, of stress inputs the one with NaN or the greatest error."""
    name, stress = seen.image.name, state.measured.stress
    if not seen.image.stress:
        if state.worst is None or seen.weight > state.worst.weight:
            state.worst = seen
    elif name in {stress.non_finite_at, "" if stress.non_finite_at else stress.worst_at}:
        state.worst_stress = seen


def _add_before(state: HopState, before: Answered, name: str, candidate: Answered, image: str) -> None:
    state.before_name = name
    state.before_masks.add(before.mask, candidate.mask)
    _add_scores(state.hop, state.before, (before, candidate), image)


def _repeat(first: Answered, again: Answered) -> Repeat:
    pixels = int((first.mask != again.mask).sum())
    if first.scores is None or again.scores is None:
        return Repeat("the first image", pixels, 0, 0.0)
    different = ~((first.scores == again.scores) | (np.isnan(first.scores) & np.isnan(again.scores)))
    with np.errstate(invalid="ignore"):  # Inf - Inf
        largest = float(np.abs(first.scores.astype(np.float64) - again.scores).max(initial=0))
    return Repeat("the first image", pixels, int(different.sum()), largest)
