"""What can be deployed: each finished file, the backend that runs it, in which precision. Everybody reads it here.

A backend is a row of `BACKENDS` and its module; what it runs are rows of `ARTIFACTS`. A row's name is what verdicts,
records and `--backend` say, so a name that was once released stays.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from segpipe.errors import InputError

if TYPE_CHECKING:
    from segpipe.rundir.manifest import Manifest

Precision = Literal["fp32", "tf32", "bf16", "fp16", "int8", "fp8"]
"""What a network computes in: convolutions and matrix products, islands apart."""

EXPORT, BUILD = "export", "build"
CHECKPOINT = "model.safetensors"
FP32_GRAPH, FP16_GRAPH = "model.onnx", "model.fp16.onnx"


@dataclass(frozen=True)
class BackendHome:
    """Where a backend lives, how to get it and what it needs."""

    module: str
    """In segpipe/runtime/backends; its `open` opens every artifact of the backend."""
    extra: str
    packages: tuple[str, ...]
    """Distributions that bring it, any one of them."""
    needs_gpu: bool


BACKENDS = {
    "tensorrt": BackendHome("tensorrt", "tensorrt", ("tensorrt",), needs_gpu=True),
    "tensorrt-rtx": BackendHome("tensorrt", "rtx", ("tensorrt_rtx",), needs_gpu=True),
    "onnxruntime-cuda": BackendHome("onnxruntime_cuda", "cuda", ("onnxruntime-gpu",), needs_gpu=True),
    "onnxruntime-cpu": BackendHome("onnxruntime", "cpu", ("onnxruntime", "onnxruntime-gpu"), needs_gpu=False),
    "openvino": BackendHome("openvino", "openvino", ("openvino",), needs_gpu=False),
}


@dataclass(frozen=True)
class Artifact:
    """A finished file that one backend runs in one precision."""

    name: str
    backend: str
    precision: Precision
    stage: str
    file: str

    @property
    def home(self) -> BackendHome:
        """The backend's row."""
        return BACKENDS[self.backend]

    @property
    def needs_gpu(self) -> bool:
        """Whether it runs on NVIDIA GPUs only."""
        return self.home.needs_gpu

    @property
    def is_engine(self) -> bool:
        """Whether `build` made it for GPUs; graphs are made by `export`."""
        return self.stage == BUILD

    @property
    def path(self) -> str:
        """As verdicts and messages call the file."""
        return f"{self.stage}/{self.file}"


_ROWS = (
    Artifact("tensorrt", "tensorrt", "fp16", BUILD, "model.tensorrt.engine"),
    Artifact("tensorrt-rtx", "tensorrt-rtx", "fp16", BUILD, "model.rtx.engine"),
    Artifact("onnxruntime-cuda-fp16", "onnxruntime-cuda", "fp16", EXPORT, FP16_GRAPH),
    Artifact("onnxruntime-cuda", "onnxruntime-cuda", "tf32", EXPORT, FP32_GRAPH),  # its convolutions take TF32
    Artifact("onnxruntime-cpu", "onnxruntime-cpu", "fp32", EXPORT, FP32_GRAPH),
    Artifact("openvino", "openvino", "fp32", EXPORT, FP32_GRAPH),
    Artifact("openvino-bf16", "openvino", "bf16", EXPORT, FP32_GRAPH),
)
ARTIFACTS = {row.name: row for row in _ROWS}
"""By name, in the order in which `auto` tries them."""
ON_CPU = ARTIFACTS["onnxruntime-cpu"]
"""What runs on every machine: graphs of the gate run on its backend, and `auto` takes it first of those on the CPU."""


def artifact_named(name: str) -> Artifact:
    """The row of that name, or an error that lists the names."""
    if name not in ARTIFACTS:
        raise InputError(f"there is no backend '{name}'", hint=f"use auto or one of: {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def artifacts_of(backend: str) -> list[Artifact]:
    """What a backend runs, in the table's order."""
    return [row for row in _ROWS if row.backend == backend]


def held_by(manifest: "Manifest") -> list[Artifact]:
    """What a run or bundle holds, in `auto`'s order, each in the precision that its stage recorded."""
    stages = manifest.stages
    rows = (row for row in _ROWS if row.stage in stages and row.file in stages[row.stage].outputs)
    return [_as_built(row, stages[BUILD].params) if row.is_engine else row for row in rows]


def _as_built(row: Artifact, params: dict[str, Any]) -> Artifact:
    """An engine of the FP32 graph alone lies under the plain name, and computes in TF32."""
    settings = params.get(BUILD)
    plain = row.name == row.backend and isinstance(settings, dict) and settings.get("precision") == "fp32"
    return replace(row, precision="tf32") if plain else row
