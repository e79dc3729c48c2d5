"""Builds the driver on host memory, with kernels.cu as C++ beside it, and says how a process comes to load it."""

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from segpipe.runtime.cuda.compiling import include_folders
from tests.host_device import kernel_library_file

LIBRARY = "libcuda.so.1"
HERE = "SEGPIPE_HOST_DRIVER"
"""Environment variable that holds the library's path in a process that runs on it."""


@cache
def driver_file() -> Path:
    """The library, built once a process. cuda.h comes with PyTorch's wheels."""
    target = Path(tempfile.mkdtemp(prefix="segpipe-driver-")) / LIBRARY
    includes = [f"-I{folder}" for folder in include_folders() if (Path(folder) / "cuda.h").is_file()]
    options = ["-O1", "-std=c++17", "-shared", "-fPIC", "-Wall", *includes, f"-Wl,-soname,{LIBRARY}"]
    source = Path(__file__).with_name("libcuda.cpp")
    command = [shutil.which("g++") or "g++", *options, str(source), "-o", str(target), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return target


def environment() -> dict[str, str]:
    """What a process needs to find the driver, and the kernels that it runs."""
    driver = driver_file()
    folders = os.pathsep.join(filter(None, (str(driver.parent), os.environ.get("LD_LIBRARY_PATH"))))
    kernels = str(kernel_library_file())
    return {**os.environ, "LD_LIBRARY_PATH": folders, HERE: str(driver), "HOST_DRIVER_KERNELS": kernels}
