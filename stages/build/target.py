"""What an engine is for: a TensorRT version and, for the flavour that measures on the GPU, that GPU. Light."""

from pathlib import Path

from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.trt import Flavour, installed_version
from segpipe.user_cache import user_cache


def describe_target(flavour: Flavour, here: bool = False) -> dict[str, str]:
    """Part of the stage's key: an engine for another GPU or version is another engine.

    `here`: TensorRT for RTX builds for this machine's GPU, because no compute capability was named.
    """
    installed = installed_version(flavour) or "not installed"
    if flavour == "tensorrt-rtx" and not here:
        return {"version": installed}  # the GPUs are build.compute_capabilities
    return {"version": installed, "gpu": gpu_name() or "none"}


def timing_cache_path(target: dict[str, str]) -> Path:
    """Where timings measured on this GPU by this version are kept; shared by all runs of a user."""
    return user_cache("timing", f"{'-'.join(target.values())}.cache")
