"""Judges the half-precision module with chosen FP32 islands, in memory: what the search for islands asks."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.auto_islands import Islands, Trial
from stages.config import Config
from stages.validate.answers import Answered
from stages.validate.checks import Peak
from stages.validate.explain import Case, enclosing_island, explain_half, largest_half
from stages.validate.gate import list_images, with_stress
from stages.validate.inputs import Image, frame_sha256
from stages.validate.judge import HopState, Judge, Setup
from stages.validate.sides import execute
from stages.validate.torch_hops import TorchAnswer, half_hop, trained_reference

_PROBED = 4  # images whose activations are measured
_IMAGES = 16  # judged in each trial; the gate judges all of them in the end


class Bench:
    """Keeps the reference's answers, so that a trial runs only the half-precision module."""

    def __init__(self, rundir: RunDirectory, config: Config, base: Path) -> None:
        self._rundir = rundir
        self._setup = Setup(run_contract(rundir), config.validate_, batches=())
        self._reference = trained_reference(rundir)
        images = islice(list_images(config, base)(), min(_IMAGES, config.validate_.images))
        self._images = list(with_stress(images, self._setup))
        self._peaks = self._measured_peaks()
        self._known: dict[str, Answered] = {
            image.sha256: self._reference.answer([image.frame])[0] for image in self._images
        }

    def judge(self, islands: Islands) -> Trial:
        """Hold the half-precision module to the limits; where it fails, bisect on its worst input."""
        hop = half_hop(self._rundir, islands)
        peak = self._peak_outside(islands)
        setup = replace(self._setup, peak=peak)
        judge = Judge(setup, self._answers, [hop])
        for image in self._images:
            judge.add(image)
        state = judge.states[hop.name]
        failed = tuple(check.line() for check in state.checks(setup) if check.status == "failed")
        if not failed or self._reference.network is None or not isinstance(hop.answer, TorchAnswer):
            return Trial(islands, failed)
        largest = largest_half(setup)
        case = Case(hop.name, self._worst(state), setup.contract, self._graph, largest=largest)
        found = explain_half(case, self._reference.network, hop.answer.network)
        island = found.island
        if found.divergence is None and peak is not None and not peak.value <= largest:
            island = enclosing_island(peak.where, self._peaks, largest)
        return Trial(islands, failed, island, "; ".join(found.lines()))

    def _measured_peaks(self) -> dict[str, float]:
        """What each module's output reaches in FP32, on the first images."""
        peaks: dict[str, float] = {}
        network = self._reference.network
        if network is None:
            return peaks
        for image in self._images[:_PROBED]:
            tensor = Case("fp16", image, self._setup.contract, self._graph).tensor
            for name, value in execute(network, tensor).peaks.items():
                peaks[name] = max(value, peaks.get(name, 0.0))
        return peaks

    def _peak_outside(self, islands: Islands) -> Peak | None:
        """The module that hands on the largest values in FP16; inside an island nothing is."""
        inside = tuple(f"{island}." for island in islands)
        outside = {name: value for name, value in self._peaks.items() if not name.startswith(inside)}
        where = max(outside, key=lambda name: outside[name], default=None)
        return None if where is None else Peak(outside[where], where)

    def _worst(self, state: HopState) -> Image:
        """The input that a failed limit names: with NaN first, else the one with the greatest error."""
        measured = state.measured
        names = (
            measured.tensors.non_finite_at,
            measured.stress.non_finite_at,
            measured.tensors.worst_at,
            measured.stress.worst_at,
        )
        return next((image for name in names if name for image in self._images if image.name == name), self._images[0])

    def _answers(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        return [self._known[frame_sha256(frame)] for frame in frames]

    def _graph(self, name: str) -> bytes:
        return self._rundir.artifact_bytes("export", name)
