"""Where a frame's time goes: our own way from frame to mask, step by step, by the GPU's clock or by the host's."""

import time
from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import BackendError
from segpipe.runtime.backends import Backend
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.request import StepTimes
from stages.benchmark.contestants import NetworkAlone, Scene, TimesSteps, network_input
from stages.benchmark_report import Budget
from stages.timing import Nanoseconds, Rounds

STEPS = "steps"  # our frame taken apart; takes turns with the contestants but is none


class Steps:
    """Called with the number of a round like any contestant; keeps what each step took."""

    def __init__(self, backend: Backend, scene: Scene) -> None:
        self.backend = backend.name
        self._scene = scene
        self._measure = _measured_by(backend, scene)
        self.taken: dict[int, StepTimes] = {}

    def __call__(self, number: int) -> None:
        """All steps of one frame."""
        times = self._measure(self._scene.frame(number))
        if number >= 0:
            self.taken[number] = times

    def budget(self, end_to_end: Nanoseconds) -> Budget:
        """Medians; the rest is what end to end took beyond the steps of the same round."""
        rounds = range(min(len(self.taken), len(end_to_end)))
        steps = np.array([astuple(self.taken[number]) for number in rounds], np.float64)  # None becomes NaN
        whole = end_to_end[: len(rounds)] / 1e6
        names = [field.name for field in fields(StepTimes)]
        medians = {name: _rounded(values) for name, values in zip(names, steps.T, strict=True)}
        return Budget(**medians, rest_ms=_rounded(whole - np.nansum(steps, 1)), end_to_end_ms=_rounded(whole))


def find_budget(steps: Steps | None, best: str, rounds: Rounds) -> Budget | str:
    """Of the contestant that is our best end to end, or why there is none: no mixture of two backends."""
    if steps is None:
        return "this backend does not tell its steps apart"
    if STEPS in rounds.failed:
        return rounds.failed[STEPS]
    if best != f"segpipe {steps.backend}":
        return f"the steps are those of {steps.backend}, which did not get through end to end"
    return steps.budget(rounds.samples[best]) if steps.taken else "no whole round"


def _measured_by(backend: Backend, scene: Scene) -> Callable[[NDArray[Any]], StepTimes]:
    if isinstance(backend, TimesSteps):
        return backend.time_steps
    if isinstance(backend, NetworkAlone):
        network: NetworkAlone = backend
        return lambda frame: _on_the_host(network, scene, frame)
    raise BackendError("this backend does not tell its steps apart", hint="measure it end to end")


def _on_the_host(network: NetworkAlone, scene: Scene, frame: NDArray[Any]) -> StepTimes:
    contract = scene.contract
    start = time.perf_counter_ns()
    tensor = network_input(frame, contract)
    ready = time.perf_counter_ns()
    scores = network.scores(tensor)
    answered = time.perf_counter_ns()
    postprocess(scores[0], contract, contract.place(*frame.shape[:2]))
    done = time.perf_counter_ns()
    return StepTimes((ready - start) / 1e6, (answered - ready) / 1e6, (done - answered) / 1e6)


def _rounded(values: NDArray[np.float64]) -> Any:
    """The median; None of a step that there is not."""
    return None if np.isnan(values).any() else round(float(np.median(values)), 4)
