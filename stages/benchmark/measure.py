"""The core of the benchmark: open who can take part, compare masks, warm up, take turns, and sum up."""

import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.rundir import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.benchmark import extras, graph_peers, nvml, torch_peers
from stages.benchmark.budget import STEPS, Steps, find_budget
from stages.benchmark.contestants import Candidate, Entrant, OurBackends, Scene, network_input
from stages.benchmark.machine import Moment, load_warnings, machine, others_share, usable_cores
from stages.benchmark.pictures import frame_sheet
from stages.benchmark_report import Budget, Conditions, Entry, GpuState, Ratio, Report
from stages.config import Config
from stages.data import open_split
from stages.timing import (
    FAILURES,
    Contestant,
    Nanoseconds,
    WarmUp,
    first_line,
    interleave,
    latency,
    ratio_of_medians,
    warm_up,
)

_log = logging.getLogger(__name__)

SAME_ANSWER = 0.999  # share of equal pixels: rounding moves a class border here and there, another answer moves more
_BEFORE_SHARE = 0.1  # of the time limit: for each contestant's masks, and for each one's warm-up


@dataclass
class Measured:
    """The report, with what goes into files of its own."""

    report: Report
    samples: dict[str, Nanoseconds]
    sheet: bytes

    def samples_csv(self) -> str:
        """Every sample, a line each."""
        text = io.StringIO("contestant,round,nanoseconds\n")
        text.seek(0, io.SEEK_END)
        for name, values in self.samples.items():
            text.writelines(f'"{name}",{number},{value}\n' for number, value in enumerate(values))
        return text.getvalue()


@dataclass
class _State:
    """What is known of each contestant so far."""

    candidates: list[Candidate]
    entrants: dict[str, Entrant] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    warm: dict[str, WarmUp] = field(default_factory=dict)

    def attempt(self, name: str, action: Callable[[], Any]) -> Any:
        """Do something with one contestant; when it fails it is out, with the reason."""
        try:
            return action()
        except FAILURES as error:
            self.reasons[name] = first_line(error)
            self.entrants.pop(name, None)
            _log.debug("benchmark: %s is left out: %s", name, self.reasons[name])
            return None


@dataclass(frozen=True)
class _Taken:
    """What came of the rounds."""

    samples: dict[str, Nanoseconds]
    best: str
    """Ours end to end on the best backend that got through; empty when none did."""
    budget: Budget | str
    """Or why there is none."""
    interrupted: bool


def measure(rundir: RunDirectory, config: Config, base: Path) -> Measured:
    """Everything, under the configured number of threads, which is put back afterwards."""
    threads = config.benchmark.threads or usable_cores()
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    scene = Scene(_frames(config, base), run_contract(rundir), threads)
    ours = OurBackends(rundir, scene)
    try:
        return _measure(rundir, config, scene, ours)
    finally:
        ours.close()
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def _measure(rundir: RunDirectory, config: Config, scene: Scene, ours: OurBackends) -> Measured:
    state = _State(_candidates(rundir, scene, ours, config.benchmark.peers))
    start, load, gpu = Moment.now(), os.getloadavg()[0], nvml.watch()
    states = [gpu.state("before")]
    _open(state)
    limit = config.benchmark.seconds * _BEFORE_SHARE
    reference = _compare_masks(state, scene, limit)
    steps = _warm_up_all(state, scene, ours, limit)
    taken = _take_turns(state, steps, config)
    states.append(gpu.state("during"))
    beside = extras.Extras(missing=_absent(gpu.unread), interrupted=taken.interrupted)
    if taken.best and not taken.interrupted:
        beside = extras.measure_extras(extras.Subject(rundir, taken.best, scene, config.benchmark, ours), gpu, beside)
    states.append(gpu.state("after"))
    share = others_share(start, Moment.now())
    report = Report(
        partial=beside.interrupted,
        reference=reference,
        frame=scene.frames[0].shape,
        frames=len(scene.frames),
        network_input=network_input(scene.frames[0], scene.contract).shape,
        threads=scene.threads,
        machine=machine().model_copy(update={"gpu": gpu.name}),
        conditions=_conditions((load, os.getloadavg()[0]), share, gpu.unread, states),
        contestants=tuple(_entry(candidate, state, taken.samples) for candidate in state.candidates),
        ratios=_ratios(state.candidates, taken.samples, taken.best),
        budget=None if isinstance(taken.budget, str) else taken.budget,
        missing=beside.missing | ({"budget": taken.budget} if isinstance(taken.budget, str) else {}),
        **beside.figures(),
    )
    best = state.entrants.get(taken.best)
    sheet = frame_sheet(rundir, scene, best.mask if best else None)
    for entrant in state.entrants.values():
        entrant.close()
    return Measured(report, taken.samples, sheet)


def _warm_up_all(state: _State, scene: Scene, ours: OurBackends, seconds: float) -> Steps | None:
    """Each by itself; whoever fails is out. Returns our steps where a backend tells them apart."""
    for name, entrant in list(state.entrants.items()):
        warm = state.attempt(name, partial(warm_up, entrant.call, seconds))
        if warm is not None:
            state.warm[name] = warm
    return _steps(state, scene, ours)


def _take_turns(state: _State, steps: Steps | None, config: Config) -> _Taken:
    calls: dict[str, Contestant] = {name: entrant.call for name, entrant in state.entrants.items()}
    if steps is not None:
        calls[STEPS] = steps
    _log.info("benchmark: %d contestants take turns for up to %.0f s", len(state.entrants), config.benchmark.seconds)
    rounds = interleave(calls, config.benchmark.rounds, config.benchmark.seconds)
    state.reasons |= rounds.failed
    samples = {name: values for name, values in rounds.samples.items() if name != STEPS and len(values)}
    ours = (c.name for c in state.candidates if c.ours and c.kind == "end to end")
    best = next((name for name in ours if name in samples and name not in rounds.failed), "")
    return _Taken(samples, best, find_budget(steps, best, rounds), rounds.interrupted)


def _frames(config: Config, base: Path) -> list[NDArray[Any]]:
    split = open_split(config, base, "val")
    if len(split) == 0:
        raise InputError("the val split holds no frames to measure with", hint="check [data] in segpipe.toml")
    return [split.sample(index)[0] for index in range(min(config.benchmark.frames, len(split)))]


def _candidates(rundir: RunDirectory, scene: Scene, ours: OurBackends, peers: Sequence[str]) -> list[Candidate]:
    """Ours, then those of the peers that the config asks for."""

    def weights() -> bytes:
        if "train" not in rundir.manifest.stages:
            raise NotImplementedError("an imported run holds no PyTorch network")
        return rundir.artifact_bytes("train", "model.safetensors")

    def graph() -> bytes:
        return rundir.artifact_bytes("export", "model.onnx")

    wanted = {name for key, name in {**torch_peers.NAMES, **graph_peers.NAMES}.items() if key in peers}
    found = [*torch_peers.candidates(weights, scene), *graph_peers.candidates(graph, scene)]
    return [*ours.candidates(), *(candidate for candidate in found if candidate.name in wanted)]


def _open(state: _State) -> None:
    for candidate in state.candidates:
        entrant = state.attempt(candidate.name, candidate.open)
        if entrant is not None:
            state.entrants[candidate.name] = entrant


def _compare_masks(state: _State, scene: Scene, seconds: float) -> str:
    """Share of pixels equal to PyTorch's eager FP32, or where there is none to our best. Returns the reference."""
    able = {name: entrant.mask for name, entrant in state.entrants.items() if entrant.mask}
    order = [name for name in (torch_peers.EAGER, *able) if name in able]
    masks: list[NDArray[Any]] = []
    reference = ""
    for name in order:
        found = state.attempt(name, partial(_masks, able[name], scene, seconds))
        if found is None:
            continue
        masks, reference = (masks, reference) if masks else (found, name)
        equal = [float((a == b).mean()) for a, b in zip(masks, found, strict=False)]
        state.agreement[name] = round(sum(equal) / len(equal), 6)
    return reference


def _masks(segment: Callable[[NDArray[Any]], NDArray[Any]], scene: Scene, seconds: float) -> list[NDArray[Any]]:
    """Of all frames, or of as many (one at least) as the time allows."""
    end = time.monotonic() + seconds
    masks = [segment(scene.frames[0])]
    for frame in scene.frames[1:]:
        if time.monotonic() > end:
            break
        masks.append(segment(frame))
    return masks


def _steps(state: _State, scene: Scene, ours: OurBackends) -> Steps | None:
    for candidate in state.candidates:
        name = candidate.name.partition(",")[0]
        if candidate.kind == "network alone" and {candidate.name, f"segpipe {name}"} <= state.entrants.keys():
            return Steps(ours.backend(name), scene)
    return None


def _entry(candidate: Candidate, state: _State, samples: dict[str, Nanoseconds]) -> Entry:
    name = candidate.name
    values, warm, agreement = samples.get(name), state.warm.get(name), state.agreement.get(name)
    entrant = state.entrants.get(name)
    return Entry(
        name=name,
        kind=candidate.kind,
        ours=candidate.ours,
        agreement=agreement,
        same_answer=None if agreement is None else agreement >= SAME_ANSWER,
        warm_up_calls=warm.calls if warm else 0,
        settled=warm.settled if warm else None,
        validated=entrant.validated if entrant else None,
        latency=latency(values) if values is not None and len(values) else None,
        reason=state.reasons.get(name, "" if values is not None and len(values) else "no whole round"),
    )


def _ratios(candidates: list[Candidate], samples: dict[str, Nanoseconds], best: str) -> tuple[Ratio, ...]:
    """Every peer against our best, and our best against its network alone."""
    pairs = [(c.name, best) for c in candidates if not c.ours]
    pairs += [(best, c.name) for c in candidates if c.kind == "network alone"]
    found = []
    for slow, fast in pairs:
        if len(samples.get(slow, ())) and len(samples.get(fast, ())):
            ratio, low, high = ratio_of_medians(samples[slow], samples[fast])
            found.append(Ratio(slow=slow, fast=fast, ratio=ratio, low=low, high=high))
    return tuple(found)


def _conditions(loads: tuple[float, float], share: float, unread: str, states: Sequence[GpuState | None]) -> Conditions:
    gpu = tuple(state for state in states if state is not None)
    return Conditions(
        load_before=round(loads[0], 2),
        load_after=round(loads[1], 2),
        others_share=share,
        gpu=gpu,
        gpu_unread=unread,
        warnings=(*load_warnings(share), *nvml.warnings(gpu)),
    )


def _absent(unread: str) -> dict[str, str]:
    return {"energy": unread, "device memory": unread} if unread else {}
