"""What an engine is for: a TensorRT version and, for the flavour that measures on the GPU, that GPU. Light."""

from dataclasses import dataclass
from pathlib import Path

from segpipe.artifacts import FP8_GRAPH, FP16_GRAPH, FP32_GRAPH, INT8_GRAPH, Artifact, engine_for
from segpipe.errors import BuildError
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.trt import Flavour, installed_version
from segpipe.user_cache import user_cache
from stages.config.root import BuildConfig, EnginePrecision

GRAPHS: dict[EnginePrecision, str] = {
    "fp16": FP16_GRAPH, "fp32": FP32_GRAPH, "int8": INT8_GRAPH, "fp8": FP8_GRAPH,
}  # fmt: skip
_FP8_FROM = (8, 9)
"""The least compute capability of GPUs that multiply FP8."""


@dataclass(frozen=True)
class WantedEngine:
    """One engine that the config asks for: who builds it, from which graph, and its row in the table of artifacts."""

    flavour: Flavour
    graph: EnginePrecision
    row: Artifact


def wanted_engines(config: BuildConfig) -> list[WantedEngine]:
    """Every target in every precision."""
    alone = len(config.precisions) == 1
    return [
        WantedEngine(flavour, precision, engine_for(flavour, precision, alone))
        for flavour in config.targets
        for precision in config.precisions
    ]


def describe_target(flavour: Flavour, here: bool = False) -> dict[str, str]:
    """Part of the stage's key: an engine for another GPU or version is another engine.

    `here`: TensorRT for RTX builds for this machine's GPU, because no compute capability was named.
    """
    installed = installed_version(flavour) or "not installed"
    if flavour == "tensorrt-rtx" and not here:
        return {"version": installed}  # the GPUs are build.compute_capabilities
    return {"version": installed, "gpu": gpu_name() or "none"}


def of_one(config: BuildConfig, wanted: WantedEngine) -> BuildConfig:
    """The settings of one engine. GPUs that its precision is not for are left out; none left is an error."""
    own = config.model_copy(update={"precision": wanted.graph})
    if wanted.graph != "fp8":
        return own
    here = (gpu_name() or "").rpartition(" (")[2].removesuffix(")")
    named = config.compute_capabilities if wanted.flavour == "tensorrt-rtx" else ()
    meant = named or ((here,) if here else ())
    able = tuple(capability for capability in meant if _numbers(capability) >= _FP8_FROM)
    if not able:
        raise BuildError(
            f"FP8 takes a GPU of compute capability 8.9 or later, this build is for {', '.join(meant) or 'none'}",
            hint='set build.compute_capabilities = ["8.9"], or leave fp8 out of build.precision',
        )
    return own.model_copy(update={"compute_capabilities": able if named else ()})


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split(".") if part.isdecimal())


def timing_cache_path(target: dict[str, str]) -> Path:
    """Where timings measured on this GPU by this version are kept; shared by all runs of a user."""
    return user_cache("timing", f"{'-'.join(target.values())}.cache")
