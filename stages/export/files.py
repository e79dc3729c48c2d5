"""The core of export: a source -> self-describing FP32 and FP16 graphs, checked, and the report on their precision."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from segpipe.artifacts import END_TO_END_GRAPH, FP16_GRAPH, FP32_GRAPH
from segpipe.contract.schema import METADATA_KEY, Contract, FrameContract, SemanticContract
from segpipe.errors import ExportError
from stages.config.root import BuildConfig, ExportConfig
from stages.export.clean import clean
from stages.export.equality import Network, difference, random_tensors, require_equal, session
from stages.export.int8 import Int8
from stages.export.int8_search import Graphs
from stages.export.source import ExportSource
from stages.graphs.end_to_end import blended_values, end_to_end
from stages.graphs.halving import to_half
from stages.graphs.input_shapes import shape_ranges
from stages.graphs.islands import Island, choose, of_modules
from stages.graphs.naming import name_nodes
from stages.graphs.reading import check, to_bytes
from stages.graphs.rounding import rounded
from stages.graphs.types import dimensions
from stages.tasks import offline_task_of

_log = logging.getLogger(__name__)

_MANY_VALUES = 10_000_000  # scores at a frame's size: fewer take about as long as the runtime does
_BYTES_A_VALUE = 12  # of the end-to-end graph: three tensors of them at a time
_FRAMES_COMPARED = 4  # frames on which graph and network, and FP16 and FP32, are compared; validate compares many


@dataclass(frozen=True)
class Exported:
    """Files by name, ready to be written."""

    files: dict[str, bytes]
    contract_sha256: str
    figures: dict[str, Any]


def export_files(
    source: ExportSource,
    config: ExportConfig,
    build: BuildConfig,
    frames: Callable[[], Iterable[NDArray[Any]]],
    int8: Callable[[Graphs], Int8] | None = None,
) -> Exported:
    """Both graphs, what they promise, and why some nodes are FP32; with `int8` its graphs too.

    `frames` gives real input tensors, batch 1."""
    contract = source.contract
    full = _described(clean(source.graph), contract)
    name_nodes(full)
    check(full, "the exported graph")
    _refuse_names(full, contract)
    candidate = session(full, contract)
    ranges = shape_ranges(contract, build, dimensions(full.graph.input[0]))
    real = (("a real frame", frame) for frame in islice(frames(), _FRAMES_COMPARED))
    worst = require_equal(source.reference, candidate, contract, chain(real, random_tensors(contract, ranges)))
    islands = choose(full, config.fp32_islands, frames, contract.input_name)
    islands += of_modules(full, offline_task_of(contract).fp32_modules, {island.node for island in islands})
    half = to_half(full, {island.node for island in islands})
    check(half, "the FP16 graph")
    files = {FP32_GRAPH: to_bytes(full), FP16_GRAPH: to_bytes(half)}
    if config.end_to_end != "off":
        if not isinstance(contract, SemanticContract):
            raise ExportError(
                f"there is no end-to-end graph for the task '{contract.task}'", hint='set export.end_to_end = "off"'
            )
        files[END_TO_END_GRAPH] = _end_to_end(full, contract, config, ranges[-1].typical)
    judged = _half_figures(candidate, half, contract, frames)
    figures = {
        **source.figures,
        "worst_relative_error": worst.error,
        "tensors_compared": worst.compared,
        "fp16_size_ratio": round(len(files[FP16_GRAPH]) / len(files[FP32_GRAPH]), 3),
        "fp32_islands": len(islands),
        **judged,
    }
    if int8 is not None:
        narrow = int8(Graphs(full, half, contract.input_name))
        files |= narrow.files
        figures |= narrow.figures
    files["contract.json"] = contract.to_json().encode()
    files["palette.json"] = json.dumps(source.palette).encode()
    files["precision.json"] = _report(full, islands, config, judged)
    return Exported(files, contract.sha256, figures)


def _described(model: onnx.ModelProto, contract: FrameContract) -> onnx.ModelProto:
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return model


def _end_to_end(full: onnx.ModelProto, contract: Contract, config: ExportConfig, typical: tuple[int, ...]) -> bytes:
    """The graph from frame to mask, which ONNX Runtime opens; the gate compares it. A word where it will be slow."""
    whole = end_to_end(full, contract, config.end_to_end == "confidence")
    check(whole, "the end-to-end graph")
    session(whole, contract)
    height, width = contract.network_size or (typical[2:] if contract.input_layout == "nchw" else typical[1:3])
    if (values := blended_values(contract, height, width)) > _MANY_VALUES:
        _log.warning(
            "export: %s blends %d million scores for a frame of %dx%d, %.1f GB of memory and up to ten times the "
            "runtime's milliseconds; where segpipe can run, open the run with it",
            END_TO_END_GRAPH, values / 1e6, height, width, values * _BYTES_A_VALUE / 1e9,
        )  # fmt: skip
    return to_bytes(whole)


def _half_figures(
    reference: Network, half: onnx.ModelProto, contract: FrameContract, frames: Callable[[], Iterable[NDArray[Any]]]
) -> dict[str, Any]:
    """FP16 beside FP32 on a few real frames. Both graphs are loaded by ONNX Runtime; NaN counts as infinitely far."""
    session(half, contract)  # the file itself must load
    candidate = session(rounded(half), contract)
    labels = offline_task_of(contract).gives_labels
    pairs = [(reference(frame), candidate(frame)) for frame in islice(frames(), _FRAMES_COMPARED)]
    if not pairs:
        return {}
    error = max(difference(expected, found, labels) for expected, found in pairs)
    if not np.isfinite(error):
        _log.warning('export: the FP16 graph gives Inf or NaN on real frames; set export.fp32_islands = "auto"')
    told: dict[str, Any] = {"fp16_relative_error": error if np.isfinite(error) else None}
    if isinstance(contract, SemanticContract):
        agreement = float(np.mean([(decided(a, contract) == decided(b, contract)).mean() for a, b in pairs]))
        told["fp16_agreement"] = round(agreement, 6)
    return told


def decided(scores: NDArray[Any], contract: Contract) -> NDArray[Any]:
    """Labels at the network's own stride; NaN gets a label of its own."""
    if contract.output_kind == "labels":
        return scores
    axis = 1 if contract.output_layout == "nchw" else -1
    labels = scores.argmax(axis) if contract.limit is None else (scores >= contract.limit).take(0, axis)
    return np.where(np.isnan(scores).any(axis), -1, labels)


def _report(model: onnx.ModelProto, islands: list[Island], config: ExportConfig, judged: dict[str, Any]) -> bytes:
    report = {
        "wanted": list(config.fp32_islands),
        "nodes": len(model.graph.node),
        "islands": [island.as_dict() for island in islands],
        **judged,
    }
    return json.dumps(report, indent=2).encode()


def _refuse_names(model: onnx.ModelProto, contract: FrameContract) -> None:
    found = [value.name for value in (*model.graph.input, *model.graph.output)]
    expected = [contract.input_name, *contract.output_names]
    if found != expected:
        raise ExportError(f"the graph's tensors are {found}, the contract says {expected}", hint="report a bug")
