"""Versions of the tools a stage used and the machine it ran on, for its record. Imports nothing heavy."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from segpipe.artifacts import PACKAGES

COMPUTING = ("torch", "numpy", "opencv-python-headless", *PACKAGES)
"""What computes the reference and whatever is compared with it: another version of one may give other numbers."""


def versions(*packages: str) -> dict[str, str]:
    """Installed version of each package; those that are absent are left out."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def driver() -> str:
    """The NVIDIA driver, which compiles the kernels of some engines; empty without one."""
    version = Path("/proc/driver/nvidia/version")
    return version.read_text(encoding="utf-8").split("\n", 1)[0].strip() if version.is_file() else ""
