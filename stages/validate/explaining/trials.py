"""Judges the FP16 graph with chosen FP32 islands, in memory, as export would write it: what the search asks."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from segpipe.artifacts import EXPORT, FP16_GRAPH, FP32_GRAPH
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import sha256_of_bytes
from stages.config.root import Config
from stages.graphs.halving import to_half
from stages.graphs.islands import choose
from stages.graphs.reading import to_bytes
from stages.validate.explaining.explain import Case, Explanation, covered, explain_graph, largest_half
from stages.validate.explaining.search import Islands, Trial
from stages.validate.hops import pytorch
from stages.validate.hops.hop import Answered, Hop
from stages.validate.hops.inputs import Image, frame_sha256
from stages.validate.hops.opening import open_graph
from stages.validate.hops.rounded import BACKEND, half_peak, rounded_bytes
from stages.validate.judging.checks import Check
from stages.validate.judging.gate import PROBED, list_images, make_setup, with_stress
from stages.validate.judging.judge import HopState, Judge, Setup

_IMAGES = 16  # judged in each trial; the gate judges all of them in the end


class Bench:
    """Keeps the reference's answers, so that a trial runs only the FP16 graph."""

    def __init__(self, setup: Setup, full: bytes, reference: pytorch.Reference, images: Iterable[Image]) -> None:
        """`full`: the FP32 graph that is halved."""
        self._setup = replace(setup, batches=())
        self._full, self._reference = full, reference
        self._images = list(with_stress(images, self._setup))
        self._known: dict[str, Answered] = {
            image.sha256: self._reference.answer([image.frame])[0] for image in self._images
        }

    @classmethod
    def of_run(cls, rundir: RunDirectory, config: Config, base: Path) -> "Bench":
        """A run's graph on its validation images."""
        setup = make_setup(rundir, config, frames=())  # each trial measures its own peak
        images = islice(list_images(config, base)(), min(_IMAGES, config.validate_.images))
        return cls(setup, rundir.artifact_bytes(EXPORT, FP32_GRAPH), pytorch.reference_of(rundir), images)

    def judge(self, islands: Islands) -> Trial:
        """Hold the graph to the limits; where it fails, bisect on its worst inputs."""
        graph, contract = self.halved(islands), self._setup.contract
        peak = half_peak(graph, contract, [image.frame for image in self._images[:PROBED]])
        setup = replace(self._setup, peak=peak)
        answer = open_graph(rounded_bytes(graph), contract)
        hop = Hop("fp16", EXPORT, FP16_GRAPH, sha256_of_bytes(graph), BACKEND, CPU, answer, "fp16")
        judge = Judge(setup, self._answers, [hop])
        for image in self._images:
            judge.add(image)
        failed = [check for check in judge.states[hop.name].checks(setup) if check.status == "failed"]
        if not failed:
            return Trial(islands, ())
        found = self._explained(judge.states[hop.name], setup, {FP32_GRAPH: self._full, FP16_GRAPH: graph})
        proposals = [name for name in found.islands if not covered(name, islands)]
        if peak is not None and not peak.value <= largest_half(setup):
            proposals.append(peak.module or peak.node)
        lines, excess = tuple(check.line() for check in failed), max(map(_excess, failed))
        return Trial(islands, lines, tuple(proposals), "; ".join(found.lines()), excess)

    def halved(self, islands: Islands) -> bytes:
        """The FP16 graph with these islands."""
        full = onnx.load_model_from_string(self._full)
        chosen = choose(full, islands, lambda: (), self._setup.contract.input_name)
        return to_bytes(to_half(full, {island.node for island in chosen}))

    def _explained(self, state: HopState, setup: Setup, graphs: dict[str, bytes]) -> Explanation:
        """Of the inputs that failed limits name, the first that leads to a layer."""
        found = None
        for image in self._worst(state):
            case = Case("fp16", image, setup, graphs.__getitem__)
            found = explain_graph(case, self._reference.network, FP16_GRAPH)
            if found.divergence is not None:
                break
        assert found is not None  # there is always a first image
        return found

    def _worst(self, state: HopState) -> Iterator[Image]:
        """With NaN first, then those with the greatest errors."""
        tensors, stress = state.measured.tensors, state.measured.stress
        names = [tensors.non_finite_at, stress.non_finite_at, tensors.worst_at, stress.worst_at, self._images[0].name]
        for name in dict.fromkeys(names):
            yield from (image for image in self._images if image.name == name)

    def _answers(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        return [self._known[frame_sha256(frame)] for frame in frames]


def _excess(check: Check) -> float:
    """A failed figure as a multiple of its limit; of an agreement, what is left to 1."""
    value, limit = check.value if check.value is not None else math.inf, check.limit
    if check.name in {"agreement", "image_agreement", "batch_agreement"}:
        value, limit = 1 - value, 1 - limit
    found = value / limit if limit else math.inf
    return math.inf if math.isnan(found) else found
