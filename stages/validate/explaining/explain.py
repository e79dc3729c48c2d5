"""Where a hop parts from the reference: the first diverging layer, its range, and what to try."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from segpipe.artifacts import BUILD, EIGHT_BITS, EXPORT, FP16_GRAPH, FP32_GRAPH
from segpipe.contract.schema import AnyContract, Contract
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.preprocess import preprocess
from stages.graphs.halving import half_suffix
from stages.graphs.islands import PROBES
from stages.graphs.ranges import measure
from stages.graphs.types import element_types
from stages.measuring.tensors import FP16_MAX
from stages.validate.explaining.bisect import Divergence, Tolerance, first_divergence
from stages.validate.explaining.inner_tensors import ROOT, GraphSide, ModuleSide, execute, made_by, module_nodes
from stages.validate.explaining.int8 import worst_layer
from stages.validate.hops.hop import Hop
from stages.validate.hops.inputs import Image
from stages.validate.hops.pytorch import Reference
from stages.validate.hops.rounded import rounded_side
from stages.validate.judging.judge import HopState, Setup

_HALF_AGREES = "given the reference's tensor every layer stays within FP16's rounding"
_GRAPH_AGREES = "given the reference's tensor the graph agrees layer by layer"
_ENGINE_AGREES = "the graph that the engine was built from agrees layer by layer: what differs is the engine itself"
_ELSEWHERE = ": what differs is pre- or post-processing (mean and std, channel order, resize, upsampling)"
_NARROW = (
    ", and scores are as near as rounding leaves them: masks flip where the network itself hardly decides; "
    "train longer, keep the last layers in FP32, or set limits of masks for this network"
)
_SAME_GRAPH = (
    "the reference runs the same graph: what differs is the backend's arithmetic, or what lies around the network"
)
_SAME_GRAPH_NARROWED = "the reference runs the same graph: what differs is the backend's "
_NARROWED_AGREES = "the FP32 graph agrees layer by layer: what differs is the backend's "
_FP32_ADVICE = "its weights or its arithmetic in the graph are not the trained ones: export again, and compare them"
_FP32_LAYER, _FP16_LAYER = 1e-6, 5e-4
"""Relative errors that one layer honestly makes."""


_NEAR_TIES = {"agreement", "image_agreement", "flips_inside", "flips_boundary", "iou_drop", "batch_agreement"}
"""Limits that flips against narrow margins can fail."""


@dataclass(frozen=True)
class Explanation:
    """The first diverging layer, or that there is none in the network itself."""

    hop: str
    image: str
    runs: int
    divergence: Divergence | None = None
    node: str = ""
    module: str = ""
    peak: float | None = None
    islands: tuple[str, ...] = ()
    """What to keep in FP32: the layer, and where that was not enough, the one before it."""
    advice: str = ""

    def lines(self) -> list[str]:
        """For a person."""
        found = self.divergence
        if found is None:
            return [f"hop '{self.hop}', {self.image}: {self.advice} ({self.runs} runs of the network)"]
        peak = "" if self.peak is None else f", values up to {self.peak:.4g} in FP32 (FP16 ends at {FP16_MAX:.0f})"
        before = f"{found.error_before:.3g} before it" + (f", at {found.before}" if found.before else "")
        return [
            f"hop '{self.hop}', {self.image}: first diverging layer is module '{self.module or 'output'}'"
            f"{f' (ONNX node {self.node})' if self.node else ''}: relative error {before}, {found.error:.3g} after it"
            f"{peak}; {self.advice} ({self.runs} runs of the network)"
        ]


@dataclass(frozen=True)
class Case:
    """One question: a hop, the image it is worst on, and where the run's graphs come from."""

    hop: str
    image: Image
    setup: Setup
    graph: Callable[[str], bytes]
    failed: bool = True
    engine: bool = False
    """The hop is a TensorRT engine: only the graph that it was built from can be opened up."""
    narrowed: str = ""
    """The fewer bits in which the backend computes the FP32 graph: only the graph itself can be opened up."""
    narrow: bool = False
    """Scores are within their limit and no flip is against a wide margin."""
    allowed: float = math.inf
    """Relative L2 that the hop's limit was fitted to."""
    islands: tuple[str, ...] = ()
    """What export was told to keep in FP32."""

    @property
    def tensor(self) -> NDArray[Any]:
        """The frame as the network's input."""
        frame = self.image.frame
        contract = self.setup.contract
        return preprocess(frame, contract, contract.place(*frame.shape[:2]))[np.newaxis]

    def tolerance(self, half: bool) -> Tolerance:
        """What is honest by the limits: else a hop could fail where no layer does."""
        limits = self.setup.settings.limits
        if half:
            return Tolerance(_FP16_LAYER, min(limits.max_relative_l2, self.allowed))
        return Tolerance(_FP32_LAYER, limits.max_relative_l2_fp32)

    def nothing(self, runs: int, agrees: str) -> Explanation:
        """No layer diverges: then it is the backend's own arithmetic, or what lies around the network."""
        if self.narrowed:
            return Explanation(self.hop, self.image.name, runs, advice=_NARROWED_AGREES + self.narrowed)
        why = (_NARROW if self.narrow else _ELSEWHERE) if self.failed else ""
        return Explanation(self.hop, self.image.name, runs, advice=agrees + why)


def explain_hop(rundir: RunDirectory, state: HopState, setup: Setup, reference: Reference) -> Explanation | None:
    """Bisect on the image with most flips; of a failed hop where that shows nothing, on the worst stress input.

    None where the hop has no graph that can be opened up.
    """
    failed, found = state.differs(setup), None
    for seen in (state.worst, state.worst_stress if failed else None):
        if seen is not None and (found is None or found.divergence is None):
            case = _case(rundir, state, seen.image, setup)
            found = _explain(case, rundir, state, reference) or found
    return found


def _case(rundir: RunDirectory, state: HopState, image: Image, setup: Setup) -> Case:
    """What is asked of one hop on one image."""
    failed = {check.name for check in state.checks(setup) if check.status == "failed"}
    return Case(
        state.hop.name,
        image,
        setup,
        partial(rundir.artifact_bytes, EXPORT),
        failed=state.differs(setup),
        engine=state.hop.stage == BUILD,
        narrowed=state.hop.precision if _is_narrowed(state.hop) else "",
        narrow=state.hop.gives_scores and bool(failed) and failed <= _NEAR_TIES,
        allowed=setup.gate.rules(state.measured, state.hop).relative_l2.limit,
        islands=_told_islands(rundir.record(EXPORT).params),
    )


def _told_islands(params: Mapping[str, Any]) -> tuple[str, ...]:
    """By the record of the export; what it found by itself is told in other words."""
    settings = params.get(EXPORT)
    named = settings.get("fp32_islands", ()) if isinstance(settings, dict) else ()
    return tuple(name for name in named if name not in PROBES)


def covered(name: str, islands: Sequence[str]) -> bool:
    """Whether a module or node is one of the islands, or inside one."""
    return any(name == island or name.startswith(f"{island}.") for island in islands)


def _explain(case: Case, rundir: RunDirectory, state: HopState, reference: Reference) -> Explanation | None:
    if state.hop.precision in EIGHT_BITS:
        advice = worst_layer(state.hop, case.graph, case.tensor)
        return Explanation(case.hop, case.image.name, 1, advice=advice)
    half = _is_of_half_graph(state.hop)
    name = FP16_GRAPH if half else FP32_GRAPH
    if name not in rundir.record(EXPORT).outputs:
        return None
    if reference.network is None and not half:
        advice = _SAME_GRAPH_NARROWED + case.narrowed if case.narrowed else _SAME_GRAPH
        return Explanation(case.hop, case.image.name, 0, advice=advice)
    return explain_graph(case, reference.network, name)


def _is_of_half_graph(hop: Hop) -> bool:
    """Whether it runs the FP16 graph, or an engine that was built from it."""
    return hop.artifact == FP16_GRAPH or (hop.stage == BUILD and hop.precision == "fp16")


def _is_narrowed(hop: Hop) -> bool:
    """Whether it computes the FP32 graph in numbers of fewer bits, which no graph of the run shows."""
    return hop.artifact == FP32_GRAPH and hop.precision not in {"fp32", "tf32"}


def explain_graph(case: Case, network: nn.Module | None, name: str) -> Explanation:
    """One of the graphs against the reference; without a module, the FP16 graph against the FP32 one."""
    return _explain_imported(case) if network is None else _explain_trained(case, network, name)


def largest_half(setup: Setup) -> float:
    """What an FP16 tensor may hold by the limits."""
    return setup.settings.limits.max_fp16_range * FP16_MAX


def enclosing_island(module: str, peaks_: Mapping[str, float], largest: float) -> str:
    """The smallest module around a layer whose own output is at most `largest`; '' when only the whole network's is.

    An island's output is FP16 again, so a layer whose output overflows needs the layers that bring it back beside it.
    """
    while module and not peaks_.get(module, math.inf) <= largest:
        module = module.rpartition(".")[0]
    return module


def _explain_trained(case: Case, network: nn.Module, name: str) -> Explanation:
    """The FP32 module against an ONNX graph, checkpoint by module."""
    graph = case.graph(name)
    nodes, watched = module_nodes(graph), execute(network, case.tensor)
    tensors = {module: nodes[module].output[0] for module in watched.leaves if module in nodes}
    half = name == FP16_GRAPH
    contract = case.setup.contract
    shown = tensors | ({ROOT: contract.output_name} if isinstance(contract, Contract) else {})
    side = (rounded_side if half else GraphSide)(graph, case.tensor, shown)
    ours, runs, found = ModuleSide(network, case.tensor), 0, None
    for order in _orders(list(shown), contract):
        found, more = first_divergence(order, ours, side, case.tolerance(half))
        runs += more
        if found is not None:
            break
    if found is None:
        agrees = _ENGINE_AGREES if case.engine else _HALF_AGREES if half else _GRAPH_AGREES
        return case.nothing(runs + 1, agrees)
    module, peak = found.checkpoint, watched.peaks.get(found.checkpoint)
    node = nodes[module].name if module in nodes else ""
    if not half:
        return Explanation(case.hop, case.image.name, runs + 1, found, node, module, peak, advice=_FP32_ADVICE)
    largest = largest_half(case.setup)
    islands = [enclosing_island(name, watched.peaks, largest) for name in (module, found.before or "")]
    advice = _fp16_advice(islands, case.islands, peak)
    return Explanation(
        case.hop, case.image.name, runs + 1, found, node, module, peak, tuple(filter(None, islands)), advice
    )


def _orders(shown: list[str], contract: AnyContract) -> list[list[str]]:
    """Checkpoints up to the end of the network; where it has several ends, up to each head that is compared."""
    if isinstance(contract, Contract):
        return [shown]
    ends = {module.partition(".")[0]: place for place, module in enumerate(shown)}  # the last of each part
    return [shown[: ends[name] + 1] for name in contract.compared_names if name in ends] or [shown]


def _explain_imported(case: Case) -> Explanation:
    """An imported FP32 graph against its FP16 form, tensor by tensor."""
    graph, half = case.graph(FP32_GRAPH), case.graph(FP16_GRAPH)
    model = onnx.load_model_from_string(graph)
    ranges = measure(model, [case.tensor], case.setup.contract.input_name)
    suffix, known = half_suffix(element_types(model)), element_types(onnx.load_model_from_string(half))
    halves = {name: name + suffix if name + suffix in known else name for name in ranges}
    forms = {name: half for name, half in halves.items() if half in known}
    ours = GraphSide(graph, case.tensor, {name: name for name in forms})
    found, runs = first_divergence(list(forms), ours, rounded_side(half, case.tensor, forms), case.tolerance(True))
    if found is None:
        return case.nothing(runs + 1, _HALF_AGREES)
    maker = made_by(graph, found.checkpoint)
    node, peak = maker.name if maker else found.checkpoint, ranges[found.checkpoint].largest
    before = made_by(graph, found.before) if found.before else None
    islands = (node, before.name) if before else (node,)
    advice = _fp16_advice(islands, case.islands, peak)
    return Explanation(case.hop, case.image.name, runs + 1, found, node, "", peak, islands, advice)


def _fp16_advice(proposed: Sequence[str], kept: Sequence[str], peak: float | None) -> str:
    """To the islands that there are, the likeliest that is none yet."""
    if not proposed[0]:
        return "only the whole network encloses it: train with smaller weights there, or build with precision fp32"
    why = "its values overflow FP16" if peak is not None and not peak <= FP16_MAX else "it loses too many digits"
    free = next((name for name in proposed if name and not covered(name, kept)), None)
    if free is None:
        return f"{why}, though '{proposed[0]}' is in FP32: keep what lies around it too, or build with precision fp32"
    return f"{why}: try export.fp32_islands = {[*kept, free]}"
