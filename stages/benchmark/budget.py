"""Where a frame's time goes: our own way from frame to mask, timed step by step on the host."""

import time
from typing import Any

import numpy as np

from segpipe.errors import BackendError
from segpipe.runtime.backends import Backend
from segpipe.runtime.postprocess import postprocess
from stages.benchmark.contestants import NetworkAlone, Scene, network_input
from stages.benchmark_report import Budget
from stages.timing import Nanoseconds


class Steps:
    """Called with the number of a round like any contestant; keeps what each step took."""

    def __init__(self, backend: Backend, scene: Scene) -> None:
        if not isinstance(backend, NetworkAlone):
            raise BackendError(f"{backend.name} does not tell its steps apart", hint="measure it end to end")
        self._network: NetworkAlone = backend
        self._scene = scene
        self.taken: list[tuple[int, int, int]] = []

    def __call__(self, number: int) -> Any:
        """Pre, network, post of one frame."""
        frame, contract = self._scene.frame(number), self._scene.contract
        start = time.perf_counter_ns()
        tensor = network_input(frame, contract)
        ready = time.perf_counter_ns()
        scores = self._network.scores(tensor)
        answered = time.perf_counter_ns()
        mask = postprocess(scores[0], contract, contract.place(*frame.shape[:2]))
        done = time.perf_counter_ns()
        self.taken.append((ready - start, answered - ready, done - answered))
        return mask

    def budget(self, end_to_end: Nanoseconds) -> Budget:
        """Medians; the rest is what end to end took beyond the steps of the same round."""
        rounds = min(len(self.taken), len(end_to_end))
        steps = np.array(self.taken[:rounds], np.int64) / 1e6
        whole = end_to_end[:rounds] / 1e6
        pre, network, post = (round(float(value), 4) for value in np.median(steps, 0))
        return Budget(
            pre_ms=pre,
            upload_ms=None,
            network_ms=network,
            post_ms=post,
            download_ms=None,
            rest_ms=round(float(np.median(whole - steps.sum(1))), 4),
            end_to_end_ms=round(float(np.median(whole)), 4),
        )
