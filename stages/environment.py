"""What a stage ran with beside its inputs, for its key and record. Imports nothing heavy."""

from pathlib import Path

from segpipe.artifacts import PACKAGES

COMPUTING = ("torch", "numpy", "opencv-python-headless", *PACKAGES)
"""What computes the reference and whatever is compared with it: another version of one may give other numbers."""


def driver() -> str:
    """The NVIDIA driver, which compiles the kernels of some engines; empty without one."""
    version = Path("/proc/driver/nvidia/version")
    return version.read_text(encoding="utf-8").split("\n", 1)[0].strip() if version.is_file() else ""
