"""Where a frame's time goes: our own way from frame to mask, step by step, by the GPU's clock or by the host's."""

import time
from collections.abc import Callable
from dataclasses import astuple, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError
from segpipe.runtime.backends import Backend
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.request import StepTimes
from stages.benchmark.contestants import NetworkAlone, Scene, TimesSteps, network_input
from stages.measuring.rounds import Nanoseconds, Rounds
from stages.results.benchmark import Budget

_NOISE = 0.05  # share by which the steps' medians may exceed the frame's where nothing disturbs either
STEPS = "steps"  # our frame taken apart; takes turns with the contestants but is none


class BudgetSteps:
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

    def budget(self, end_to_end: Nanoseconds) -> Budget | str:
        """Medians of the rounds that both have, and what is left of the frame; or why they make no budget.

        The steps are those of another call than the frame's: on a quiet machine they may take a hair longer, and the
        frame is then as long as they are.
        """
        rounds = range(min(len(self.taken), len(end_to_end)))
        steps = np.array([astuple(self.taken[number]) for number in rounds], np.float64)  # None becomes NaN
        names = [field.name for field in fields(StepTimes)]
        medians = {name: _median(values) for name, values in zip(names, steps.T, strict=True)}
        parts = round(sum(value for value in medians.values() if value is not None), 4)
        whole = round(float(np.median(end_to_end[: len(rounds)])) / 1e6, 4)
        if parts > whole * (1 + _NOISE):
            return f"the steps took {parts:.2f} ms, the whole frame {whole:.2f}: other work disturbed them"
        whole = max(whole, parts)
        return Budget(**medians, rest_ms=round(whole - parts, 4), end_to_end_ms=whole)


def find_budget(steps: BudgetSteps | None, best: str, rounds: Rounds) -> Budget | str:
    """Of the contestant that is our best end to end, or why there is none: no mixture of two backends."""
    if steps is None:
        return "this backend cannot time its steps one by one"
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
    raise BackendError("this backend cannot time its steps one by one", hint="measure it end to end")


def _on_the_host(network: NetworkAlone, scene: Scene, frame: NDArray[Any]) -> StepTimes:
    contract = scene.contract
    assert isinstance(contract, Contract)  # see `stages.benchmark.measure`
    start = time.perf_counter_ns()
    tensor = network_input(frame, contract)
    ready = time.perf_counter_ns()
    scores = network.scores(tensor)
    answered = time.perf_counter_ns()
    postprocess(scores[0], contract, contract.place(*frame.shape[:2]))
    done = time.perf_counter_ns()
    return StepTimes((ready - start) / 1e6, (answered - ready) / 1e6, (done - answered) / 1e6)


def _median(values: NDArray[np.float64]) -> Any:
    """None of a step that there is not."""
    return None if np.isnan(values).any() else round(float(np.median(values)), 4)
