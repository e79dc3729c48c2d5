"""Stage `build`: ONNX -> TensorRT engines, the truth about their precision, and the kernels that run beside them."""

from pathlib import Path

from segpipe.artifacts import ARTIFACTS, FP16_GRAPH, FP32_GRAPH
from segpipe.rundir.directory import RunDirectory
from stages.build.kernels import kernels_key
from stages.build.target import describe_target
from stages.config.root import Config

STAGE = "build"
VERSION = 2
_GRAPHS = {"fp16": FP16_GRAPH, "fp32": FP32_GRAPH}


def run(rundir: RunDirectory, config: Config, _base: Path) -> list[Path]:
    """Build an engine for every target, unless engines with the same key are already there."""
    graph = rundir.artifact("export", _GRAPHS[config.build.precision])
    precision = rundir.artifact("export", "precision.json")
    here = not config.build.compute_capabilities
    target = {flavour: describe_target(flavour, here) for flavour in config.build.targets}
    params = {"stage_version": VERSION, "target": target, "kernels": kernels_key(), **config.sections("build")}
    with rundir.step(STAGE, [graph, precision], params) as step:
        if step.stale:
            from stages.build.engines import build_engines

            built = build_engines(rundir, _GRAPHS[config.build.precision], config.build)
            files = {ARTIFACTS[flavour].file: engine.plan for flavour, engine in built.engines.items()}
            for name, data in (files | built.kernels).items():
                step.path(name).write_bytes(data)
            step.contract_sha256 = built.contract_sha256
            step.figures = built.figures
            step.environment |= {flavour: ", ".join(what.values()) for flavour, what in target.items()}
    return [rundir.artifact(STAGE, ARTIFACTS[flavour].file) for flavour in config.build.targets]
