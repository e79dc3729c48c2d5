"""Stage `build`: ONNX -> TensorRT engines, and the truth about their precision."""

from pathlib import Path
from typing import Any

from segpipe.contract import Contract
from segpipe.errors import BuildError
from segpipe.rundir import RunDirectory
from segpipe.runtime.trt import Flavour
from segpipe.runtime.trt.building import BuildRequest, Engine, ShapeRange, build_engine
from stages.config import BuildConfig, Config
from stages.environment import versions

STAGE = "build"
VERSION = 1
ENGINES: dict[Flavour, str] = {"tensorrt": "model.tensorrt.engine", "tensorrt-rtx": "model.rtx.engine"}
_GRAPHS = {"fp16": "model.fp16.onnx", "fp32": "model.onnx"}
_PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def run(rundir: RunDirectory, config: Config) -> list[Path]:
    """Build an engine for every target, unless engines with the same key are already there."""
    graph = rundir.artifact("export", _GRAPHS[config.build.precision])
    target = versions(*(_PACKAGES[flavour] for flavour in config.build.targets))
    islands = config.sections("export")["export"].get("fp32_islands", [])
    params = {"stage_version": VERSION, "target": target, "islands": islands, **config.sections("build")}
    with rundir.step(STAGE, [graph], params) as step:
        if step.stale:
            contract = Contract.from_json(rundir.artifact_bytes("export", "contract.json"), "export")
            for flavour in config.build.targets:
                engine = build(flavour, graph.read_bytes(), contract, config.build)
                step.path(ENGINES[flavour]).write_bytes(engine.plan)
                step.figures[flavour] = judge_precision(engine, config.build, len(islands))
            step.contract_sha256 = contract.sha256
            step.environment |= target
    return [rundir.artifact(STAGE, ENGINES[flavour]) for flavour in config.build.targets]


def build(flavour: Flavour, graph: bytes, contract: Contract, config: BuildConfig) -> Engine:
    """One engine for batches of 1 to `max_batch`."""
    shapes = shape_range(contract, config.max_batch)
    return build_engine(flavour, BuildRequest(graph, contract.input_name, shapes, config.compute_capabilities))


def shape_range(contract: Contract, max_batch: int) -> ShapeRange:
    """The input shapes an engine must take; frames of any size need fixed bounds."""
    sizes = [contract.network_size] * 3 if contract.network_size else _free_sizes(contract.size_multiple)
    smallest, typical, largest = (
        (batch, contract.channels, *size) if contract.input_layout == "nchw" else (batch, *size, contract.channels)
        for batch, size in zip((1, 1, max_batch), sizes, strict=True)
    )
    return ShapeRange(smallest, typical, largest)


def judge_precision(engine: Engine, config: BuildConfig, islands: int) -> dict[str, Any]:
    """What share of the compute layers is FP16; too little fails the build and names the layers."""
    half = [layer for layer in engine.layers if layer.dtype == "HALF"]
    share = len(half) / len(engine.layers) if engine.layers else 0.0
    figures = {"compute_layers": len(engine.layers), "fp16_share": round(share, 4), "engine_bytes": len(engine.plan)}
    if config.precision == "fp16" and not islands and not share >= config.min_fp16_share:
        others = ", ".join(f"{layer.name} ({layer.dtype})" for layer in engine.layers if layer.dtype != "HALF")
        raise BuildError(
            f"{share:.0%} of {len(engine.layers)} compute layers are FP16, build.min_fp16_share is "
            f"{config.min_fp16_share:.0%}; not in FP16: {others}",
            hint="export again, or lower build.min_fp16_share",
        )
    return figures


def _free_sizes(multiple: int) -> list[tuple[int, int]]:
    """Smallest, typical and largest frames where the contract leaves the size open, on the network's multiple."""
    sides = (-(-side // multiple) * multiple for side in (64, 512, 1024))
    return [(side, 2 * side) for side in sides]
