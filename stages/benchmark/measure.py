"""The core of the benchmark: who takes part, the contest, what stands beside it, and the report of all that."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from segpipe.artifacts import CHECKPOINT, EXPORT, FP32_GRAPH
from segpipe.contract.schema import Contract
from segpipe.cores import usable_cores
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import any_contract
from stages.benchmark import extras, graph_peers, nvml, torch_peers
from stages.benchmark.budget import STEPS, BudgetSteps, find_budget
from stages.benchmark.contest import Contest, computing_with
from stages.benchmark.contestants import Candidate, OurBackends, Scene, network_input
from stages.benchmark.machine import machine
from stages.benchmark.pictures import frame_sheet
from stages.config.root import Config
from stages.data import open_split
from stages.measuring.others import Moment, load_warnings, others_share
from stages.measuring.rounds import Nanoseconds
from stages.results.benchmark import Conditions, GpuState, Report

_BEFORE_SHARE = 0.1  # of the time limit: for each contestant's masks, and for each one's warm-up


@dataclass
class Measurements:
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


def measure(rundir: RunDirectory, config: Config, base: Path) -> Measurements:
    """Everything, under the configured number of threads, which is put back afterwards."""
    scene = Scene(_frames(config, base), any_contract(rundir), config.benchmark.threads or usable_cores())
    ours = OurBackends(rundir, scene)
    try:
        with computing_with(scene.threads):
            return _measure(rundir, config, scene, ours)
    finally:
        ours.close()


def _measure(rundir: RunDirectory, config: Config, scene: Scene, ours: OurBackends) -> Measurements:
    settings = config.benchmark
    contest = Contest(_candidates(rundir, scene, ours, settings.peers), scene)
    start, load, gpu = Moment.now(), os.getloadavg()[0], nvml.watch()
    states = [gpu.state("before")]
    contest.prepare(torch_peers.EAGER, settings.seconds * _BEFORE_SHARE)
    steps = _steps(contest, scene, ours)
    rounds = contest.take_turns({} if steps is None else {STEPS: steps}, settings.rounds, settings.seconds)
    best = contest.best()
    budget = find_budget(steps, best, rounds)
    states.append(gpu.state("during"))
    beside = extras.Extras(missing=_absent(gpu.unread), interrupted=rounds.interrupted)
    if best and not rounds.interrupted:
        beside = extras.measure_extras(extras.Subject(rundir, best, scene, settings, ours), gpu, beside)
    states.append(gpu.state("after"))
    share = others_share(start, Moment.now())
    report = Report(
        partial=beside.interrupted,
        reference=contest.reference,
        frame=scene.frames[0].shape,
        frames=len(scene.frames),
        network_input=network_input(scene.frames[0], scene.contract).shape,
        threads=scene.threads,
        machine=machine(),
        conditions=_conditions((load, os.getloadavg()[0]), share, gpu.unread, states),
        contestants=contest.entries(),
        ratios=contest.ratios(),
        budget=None if isinstance(budget, str) else budget,
        missing=beside.missing | ({"budget": budget} if isinstance(budget, str) else {}),
        **beside.figures(),
    )
    sheet = frame_sheet(rundir, scene, contest.entrants[best].mask if best else None)
    return Measurements(report, contest.samples, sheet)


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
        return rundir.artifact_bytes("train", CHECKPOINT)

    def graph() -> bytes:
        return rundir.artifact_bytes(EXPORT, FP32_GRAPH)

    wanted = {name for key, name in {**torch_peers.NAMES, **graph_peers.NAMES}.items() if key in peers}
    found = [*torch_peers.candidates(weights, scene), *graph_peers.candidates(graph, scene)]
    return [*ours.candidates(), *(candidate for candidate in found if candidate.name in wanted)]


def _steps(contest: Contest, scene: Scene, ours: OurBackends) -> BudgetSteps | None:
    """Our frame taken apart, on the best backend that tells its steps; those of things have not been taken apart."""
    if not isinstance(scene.contract, Contract):
        return None
    for candidate in contest.candidates:
        name = candidate.name.partition(",")[0]
        if candidate.kind == "network alone" and {candidate.name, f"segpipe {name}"} <= contest.entrants.keys():
            return BudgetSteps(ours.backend(name), scene)
    return None


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
