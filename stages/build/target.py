"""What an engine is for: a TensorRT version and, for the flavour that measures on the GPU, that GPU. Light."""

import ctypes
import os
from pathlib import Path

from segpipe.runtime.trt import Flavour, installed_version


def describe_target(flavour: Flavour, here: bool = False) -> dict[str, str]:
    """Part of the stage's key: an engine for another GPU or version is another engine.

    `here`: TensorRT for RTX builds for this machine's GPU, because no compute capability was named.
    """
    installed = installed_version(flavour) or "not installed"
    if flavour == "tensorrt-rtx" and not here:
        return {"version": installed}  # the GPUs are build.compute_capabilities
    return {"version": installed, "gpu": gpu_name() or "none"}


def gpu_name() -> str | None:
    """`NVIDIA H200 (9.0)`, from the driver itself; None without a GPU."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(name, 128, device):
        return None
    major, minor = ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
    return f"{name.value.decode()} ({major.value}.{minor.value})"


def timing_cache_path(target: dict[str, str]) -> Path:
    """Where timings measured on this GPU by this version are kept; shared by all runs of a user."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = "-".join("".join(c if c.isalnum() or c == "." else "_" for c in part) for part in target.values())
    return home / "segpipe" / "timing" / f"{name}.cache"
