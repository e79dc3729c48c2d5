"""What is on this machine."""

from typing import Any

from benchmarks.gpu.plan import Folders
from segpipe.doctor import examine
from stages.benchmark.machine import machine
from stages.environment import versions

_PACKAGES = (
    "torch", "torchvision", "lightning", "onnx", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13-bindings",
    "cuda-bindings", "pycuda", "numpy", "opencv-python-headless",
)  # fmt: skip


def run(folders: Folders) -> dict[str, Any]:
    """Hardware, driver and versions."""
    found = {finding.name: finding.detail for finding in examine()}
    return {"found": found, "versions": versions(*_PACKAGES), **machine().model_dump()}
