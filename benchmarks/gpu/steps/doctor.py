"""What is on this machine."""

from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.plan import Folders
from segpipe.doctor import examine
from segpipe.installed import versions
from stages.benchmark.machine import machine

_PACKAGES = (
    "torch", "torchvision", "lightning", "onnx", "onnxscript", "onnx-ir", "onnxruntime-gpu", "tensorrt",
    "tensorrt-rtx-cu13-bindings", "cuda-bindings", "cupy-cuda13x", "pycuda", "triton", "numpy", "pydantic",
    "opencv-python-headless",
)  # fmt: skip


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Hardware, driver and versions."""
    found = {finding.name: finding.detail for finding in examine()}
    yield {"found": found, "versions": versions(*_PACKAGES), **machine().model_dump()}
