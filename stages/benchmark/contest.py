"""The contest: open who can take part, compare masks, warm up, take turns. Whoever fails is out, with the reason."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import cv2
import torch
from numpy.typing import NDArray

from stages.benchmark.contestants import Candidate, Entrant, Scene
from stages.measuring.rounds import (
    FAILURES,
    Contestant,
    Nanoseconds,
    Rounds,
    WarmUp,
    first_line,
    interleave,
    latency,
    ratio_of_medians,
    warm_up,
)
from stages.results.benchmark import Entry, Ratio

_log = logging.getLogger(__name__)

SAME_ANSWER = 0.999  # share of equal pixels: rounding moves a class border here and there, another answer moves more


class Contest:
    """What is known of each contestant so far. `prepare`, then `take_turns`, then read."""

    def __init__(self, candidates: Sequence[Candidate], scene: Scene) -> None:
        self.candidates = candidates
        self.entrants: dict[str, Entrant] = {}
        self.reference = ""
        """Whose masks the others' are compared with."""
        self.samples: dict[str, Nanoseconds] = {}
        self._scene = scene
        self._reasons: dict[str, str] = {}
        self._agreement: dict[str, float] = {}
        self._warm: dict[str, WarmUp] = {}

    def prepare(self, first: str, seconds: float) -> None:
        """Open all, compare masks with those of `first` (where it fails, of the next), and warm each up by itself.

        `seconds` for each one's masks, and as many for its warm-up.
        """
        for candidate in self.candidates:
            entrant = self._attempt(candidate.name, candidate.open)
            if entrant is not None:
                self.entrants[candidate.name] = entrant
        self._compare_masks(first, seconds)
        for name, entrant in list(self.entrants.items()):
            warm = self._attempt(name, partial(warm_up, entrant.call, seconds))
            if warm is not None:
                self._warm[name] = warm

    def take_turns(self, beside: Mapping[str, Contestant], rounds: int, seconds: float) -> Rounds:
        """Each once a round, and what takes turns `beside` them without being one of them."""
        calls: dict[str, Contestant] = {name: entrant.call for name, entrant in self.entrants.items()}
        _log.info("benchmark: %d contestants take turns for up to %.0f s", len(calls), seconds)
        taken = interleave({**calls, **beside}, rounds, seconds)
        self._reasons |= taken.failed
        self.samples = {name: values for name, values in taken.samples.items() if name in calls and len(values)}
        return taken

    def best(self) -> str:
        """Ours end to end on the best backend that got through; empty when none did."""
        ours = (candidate.name for candidate in self.candidates if candidate.ours and candidate.kind == "end to end")
        return next((name for name in ours if name in self.samples and name not in self._reasons), "")

    def entries(self) -> tuple[Entry, ...]:
        """Every contestant as the report lists it."""
        return tuple(map(self._entry, self.candidates))

    def ratios(self) -> tuple[Ratio, ...]:
        """Every peer against our best, and our best against its network alone."""
        best = self.best()
        pairs = [(candidate.name, best) for candidate in self.candidates if not candidate.ours]
        pairs += [(best, candidate.name) for candidate in self.candidates if candidate.kind == "network alone"]
        found = []
        for slow, fast in pairs:
            if slow in self.samples and fast in self.samples:
                ratio, low, high = ratio_of_medians(self.samples[slow], self.samples[fast])
                found.append(Ratio(slow=slow, fast=fast, ratio=ratio, low=low, high=high))
        return tuple(found)

    def _attempt(self, name: str, action: Callable[[], Any]) -> Any:
        """Do something with one contestant; when it fails it is out, with the reason."""
        try:
            return action()
        except FAILURES as error:
            self._reasons[name] = first_line(error)
            self.entrants.pop(name, None)
            _log.debug("benchmark: %s is left out: %s", name, self._reasons[name])
            return None

    def _compare_masks(self, first: str, seconds: float) -> None:
        able = {name: entrant.mask for name, entrant in self.entrants.items() if entrant.mask}
        masks: list[NDArray[Any]] = []
        for name in dict.fromkeys(name for name in (first, *able) if name in able):
            found = self._attempt(name, partial(_masks, able[name], self._scene, seconds))
            if found is None:
                continue
            if not masks:
                masks, self.reference = found, name
            equal = [float((a == b).mean()) for a, b in zip(masks, found, strict=False)]
            self._agreement[name] = round(sum(equal) / len(equal), 6)

    def _entry(self, candidate: Candidate) -> Entry:
        name = candidate.name
        values, warm, agreement = self.samples.get(name), self._warm.get(name), self._agreement.get(name)
        entrant = self.entrants.get(name)
        return Entry(
            name=name,
            kind=candidate.kind,
            ours=candidate.ours,
            agreement=agreement,
            same_answer=None if agreement is None else agreement >= SAME_ANSWER,
            warm_up_calls=warm.calls if warm else 0,
            settled=warm.settled if warm else None,
            validated=entrant.validated if entrant else None,
            latency=None if values is None else latency(values),
            reason=self._reasons.get(name, "no whole round" if values is None else ""),
        )


@contextmanager
def computing_with(threads: int) -> Iterator[None]:
    """PyTorch and OpenCV use so many threads, and afterwards as many as before."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _masks(segment: Callable[[NDArray[Any]], NDArray[Any]], scene: Scene, seconds: float) -> list[NDArray[Any]]:
    """Of all frames, or of as many (one at least) as the time allows."""
    end = time.monotonic() + seconds
    masks = [segment(scene.frames[0])]
    for frame in scene.frames[1:]:
        if time.monotonic() > end:
            break
        masks.append(segment(frame))
    return masks
