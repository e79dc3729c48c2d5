"""The core of build: a graph -> engines for every target, with time, memory and precision of each."""

import logging
import platform
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from segpipe.artifacts import EIGHT_BITS, EXPORT, engine_for
from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendMissingError, BuildError
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import write_atomically
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.request import BuiltFor
from segpipe.runtime.trt import Flavour, load
from segpipe.runtime.trt.building import BuildRequest, BuiltEngine, GraphRefusedError, ShapeRange, build_engine
from segpipe.runtime.trt.inspecting import inspect_engine
from stages.build.kernels import compile_kernels
from stages.build.precision import island_nodes, judge_precision, kept_nodes, refuse_larger
from stages.build.problems import explained
from stages.build.progress import shown
from stages.build.target import GRAPHS, describe_target, of_one, timing_cache_path, wanted_engines
from stages.config.root import BuildConfig, EnginePrecision
from stages.graphs.input_shapes import shape_ranges
from stages.graphs.types import dimensions
from stages.results.quantisation import FILE_NAME

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Built:
    """Engines by file, and the record's figures."""

    engines: dict[str, bytes]
    kernels: dict[str, bytes]
    figures: dict[str, Any]
    contract_sha256: str


def build_engines(rundir: RunDirectory, config: BuildConfig) -> Built:
    """Build every target of the config in each of its precisions, from the exported graphs."""
    contract = FrameContract.from_json(rundir.artifact_bytes(EXPORT, "contract.json"), EXPORT)
    islands = island_nodes(rundir.artifact_bytes(EXPORT, "precision.json"))
    for flavour in config.targets:
        _refuse_impossible(flavour)
    engines: dict[str, bytes] = {}
    figures: dict[str, Any] = {}
    for wanted in wanted_engines(config):
        graph = rundir.artifact_bytes(EXPORT, GRAPHS[wanted.graph])
        own = of_one(config, wanted)
        shapes = shape_ranges(contract, own, dimensions(onnx.load_model_from_string(graph).graph.input[0]))
        request = make_request(wanted.flavour, graph, contract.input_name, shapes, own)
        engine, found = build_one(wanted.flavour, request, own, _left_out(rundir, wanted.graph, islands))
        if wanted.graph in EIGHT_BITS:
            half = rundir.artifact_bytes(EXPORT, GRAPHS["fp16"])
            alike = engines if own.compute_capabilities == config.compute_capabilities else {}
            found["fp16_engine_bytes"] = _half_bytes(wanted.flavour, alike, replace(request, onnx=half))
            refuse_larger(len(engine.plan), found["fp16_engine_bytes"], wanted.graph)
        engines[wanted.row.file] = engine.plan
        figures[wanted.row.name] = {**found, "built_for": asdict(built_for(wanted.flavour, own, gpu_name()))}
    return Built(engines, _kernels(), figures, contract.sha256)


def _left_out(rundir: RunDirectory, graph: EnginePrecision, islands: frozenset[str]) -> frozenset[str]:
    """Layers that need not compute in the engine's precision."""
    if graph in EIGHT_BITS:
        return islands | kept_nodes(rundir.artifact_bytes(EXPORT, FILE_NAME), graph)
    return islands if graph == "fp16" else frozenset()


def _half_bytes(flavour: Flavour, engines: Mapping[str, bytes], request: BuildRequest) -> int:
    """How large FP16's engine for the same GPUs is, which was just built, or is built to know."""
    file = engine_for(flavour, "fp16", alone=True).file
    return len(engines[file] if file in engines else build_engine(flavour, request).plan)


def make_request(
    flavour: Flavour, graph: bytes, input_name: str, shapes: tuple[ShapeRange, ...], config: BuildConfig
) -> BuildRequest:
    """The config in the builder's terms."""
    return BuildRequest(
        onnx=graph,
        input_name=input_name,
        shapes=shapes,
        compute_capabilities=config.compute_capabilities,
        workspace_bytes=config.workspace_mb * 2**20 if config.workspace_mb else None,
        optimization_level=config.optimization_level,
        hardware_compatibility=config.hardware_compatibility,
        version_compatible=config.version_compatible,
        timing_cache=_stored_timings(flavour) if flavour == "tensorrt" and config.timing_cache else None,
    )


def build_one(
    flavour: Flavour, request: BuildRequest, config: BuildConfig, islands: frozenset[str]
) -> tuple[BuiltEngine, dict[str, Any]]:
    """One engine and its figures; a refused graph is explained in the network's terms."""
    started = time.monotonic()
    with shown(flavour) as progress:
        try:
            engine = build_engine(flavour, request, progress)
        except GraphRefusedError as error:
            raise explained(error, request.onnx) from error
    seconds = time.monotonic() - started
    if engine.timing_cache is not None:
        _keep_timings(timing_cache_path(describe_target(flavour)), engine.timing_cache)
    inspected = inspect_engine(flavour, engine.plan) if gpu_name() else None
    figures = {
        **judge_precision(engine, config, islands, inspected.layers_json if inspected else None),
        "engine_bytes": len(engine.plan),
        "seconds": round(seconds, 3),
        "profiles": [vars(shapes) for shapes in request.shapes],
        "workspace_limit_bytes": engine.workspace_bytes,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "warnings": len(engine.warnings),
    }
    if inspected is not None:
        figures["device_memory_bytes"] = inspected.device_memory_bytes
    kind = str(config.precision) if config.precision in EIGHT_BITS else "fp16"
    _log.info("build: %s in %.1f s, %.0f %% %s", flavour, seconds, 100 * figures[f"{kind}_share"], kind.upper())
    return engine, figures


def _refuse_impossible(flavour: Flavour) -> None:
    """Before anything is built: a missing package first, then a missing GPU."""
    load(flavour)
    if flavour == "tensorrt" and gpu_name() is None:
        raise BuildError(
            "tensorrt builds on the GPU that its engine will run on, and there is none here",
            hint="build on that machine, or set build.targets = ['tensorrt-rtx'], which needs no GPU to build",
        )


def built_for(flavour: Flavour, config: BuildConfig, machine: str | None) -> BuiltFor:
    """What the runtime compares with the machine it is on. `machine`: this one's GPU, as `NVIDIA H200 (9.0)`."""
    gpu, _, capability = (machine or "").rpartition(" (")
    here = (capability.removesuffix(")"),) if gpu else ()
    return BuiltFor(
        version=describe_target(flavour)["version"],
        gpu=gpu if gpu and flavour == "tensorrt" else None,
        compute_capabilities=here if flavour == "tensorrt" else config.compute_capabilities or here,
        system=platform.system(),
        version_compatible=config.version_compatible,
        hardware_compatibility=config.hardware_compatibility,
    )


def _kernels() -> dict[str, bytes]:
    """Machine code for every GPU; without the compiler the runtime needs it when it opens an engine."""
    try:
        return compile_kernels()
    except BackendMissingError as error:
        _log.warning("build: no CUDA kernels in this run, the runtime will compile them: %s", error)
        return {}


def _stored_timings(flavour: Flavour) -> bytes:
    path = timing_cache_path(describe_target(flavour))
    return path.read_bytes() if path.is_file() else b""


def _keep_timings(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
