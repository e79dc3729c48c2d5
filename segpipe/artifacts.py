"""What can be deployed: each finished file, the backend that runs it, in which precision. Everybody reads it here.

A backend is a row of `BACKENDS` and its module; what it runs are rows of `ARTIFACTS`. A row's name is what verdicts,
records and `--backend` say, so a name that was once released stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from segpipe.errors import InputError

if TYPE_CHECKING:
    from segpipe.rundir.manifest import Manifest

Precision = Literal["fp32", "tf32", "fp16", "bf16", "fp8", "int8"]
"""What a network computes in (convolutions and matrix products, islands apart), the finest first."""

EXPORT, BUILD = "export", "build"
AUTO = "auto"
FAMILIES = (AUTO, "gpu", "cpu")
"""In place of a name: the best that is usable here, of all, of what needs a GPU, of what needs none."""
_SHOWN = 40  # characters of a name that somebody else chose
CHECKPOINT = "model.safetensors"
UNPRUNED = "unpruned.safetensors"
"""Of a pruned network, what it was cut from: pruning to another share begins there."""
FP32_GRAPH, FP16_GRAPH = "model.onnx", "model.fp16.onnx"
UNQUANTISED, RANGES = "unquantised.safetensors", "ranges.json"
"""Of a network that was trained for INT8: what it was before, and between which values each layer's input lies."""
INT8_GRAPH, INT8_CPU_GRAPH = "model.int8.onnx", "model.int8.cpu.onnx"
"""What engines are built from, and what CPUs run: they want numbers of other kinds."""
FP8_GRAPH = "model.fp8.onnx"
"""For engines alone: no CPU computes in it."""
EIGHT_BITS = frozenset({"fp8", "int8"})
"""Precisions that are another network, near the first: they have graphs and limits of their own."""
END_TO_END_GRAPH, END_TO_END = "model.e2e.onnx", "onnxruntime-e2e"
"""The graph from frame to mask, and what verdicts call the way to run it. No row: it is for other programs, not for
the runtime, which does the same around the bare network and faster."""


@dataclass(frozen=True)
class BackendSpec:
    """Where a backend lives, how to get it and what it needs."""

    module: str
    """In segpipe/runtime/backends; its `open` opens every artifact of the backend."""
    extra: str
    packages: tuple[str, ...]
    """Distributions that bring it, any one of them."""
    needs_gpu: bool


BACKENDS = {
    "tensorrt": BackendSpec("tensorrt", "tensorrt", ("tensorrt",), needs_gpu=True),
    "tensorrt-rtx": BackendSpec("tensorrt", "rtx", ("tensorrt_rtx",), needs_gpu=True),
    "onnxruntime-cuda": BackendSpec("onnxruntime_cuda", "cuda", ("onnxruntime-gpu",), needs_gpu=True),
    "onnxruntime-cpu": BackendSpec("onnxruntime", "cpu", ("onnxruntime", "onnxruntime-gpu"), needs_gpu=False),
    "openvino": BackendSpec("openvino", "openvino", ("openvino",), needs_gpu=False),
}


PACKAGES = tuple(sorted({package for spec in BACKENDS.values() for package in spec.packages}))
"""Distributions of all backends: another version of one may give other numbers, or another speed."""


@dataclass(frozen=True)
class Artifact:
    """A finished file that one backend runs in one precision."""

    name: str
    backend: str
    precision: Precision
    stage: str
    file: str

    @property
    def spec(self) -> BackendSpec:
        """The backend's row."""
        return BACKENDS[self.backend]

    @property
    def needs_gpu(self) -> bool:
        """Whether it runs on NVIDIA GPUs only."""
        return self.spec.needs_gpu

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
    Artifact("tensorrt-tf32", "tensorrt", "tf32", BUILD, "model.tensorrt.tf32.engine"),
    Artifact("tensorrt-rtx-tf32", "tensorrt-rtx", "tf32", BUILD, "model.rtx.tf32.engine"),
    Artifact("tensorrt-fp8", "tensorrt", "fp8", BUILD, "model.tensorrt.fp8.engine"),
    Artifact("tensorrt-rtx-fp8", "tensorrt-rtx", "fp8", BUILD, "model.rtx.fp8.engine"),
    Artifact("tensorrt-int8", "tensorrt", "int8", BUILD, "model.tensorrt.int8.engine"),
    Artifact("tensorrt-rtx-int8", "tensorrt-rtx", "int8", BUILD, "model.rtx.int8.engine"),
    Artifact("onnxruntime-cuda", "onnxruntime-cuda", "tf32", EXPORT, FP32_GRAPH),  # its convolutions take TF32
    Artifact("onnxruntime-cpu", "onnxruntime-cpu", "fp32", EXPORT, FP32_GRAPH),
    Artifact("openvino", "openvino", "fp32", EXPORT, FP32_GRAPH),
    Artifact("openvino-bf16", "openvino", "bf16", EXPORT, FP32_GRAPH),
    Artifact("onnxruntime-cpu-int8", "onnxruntime-cpu", "int8", EXPORT, INT8_CPU_GRAPH),
    Artifact("openvino-int8", "openvino", "int8", EXPORT, INT8_CPU_GRAPH),
)
ARTIFACTS = {row.name: row for row in _ROWS}
"""By name, in the order in which `auto` tries them."""
ON_CPU = ARTIFACTS["onnxruntime-cpu"]
"""What runs on every machine: graphs of the gate run on its backend, and `auto` takes it first of those on the CPU."""


def artifact_named(name: str) -> Artifact:
    """The row of that name, or an error that lists the names."""
    _require_known("backend", name, [*ARTIFACTS], f"use {', '.join(FAMILIES)} or one of: {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def _require_known(what: str, name: object, known: Sequence[str], hint: str) -> None:
    """Whoever calls Python may hand over anything: refused on one line, cut and without control characters."""
    if not isinstance(name, str) or name not in known:
        raise InputError(f"there is no {what} {name!r:.{_SHOWN}}", hint=hint)


def artifacts_of(backend: str) -> list[Artifact]:
    """What a backend runs, in the table's order."""
    return [row for row in _ROWS if row.backend == backend]


def engine_for(backend: str, graph: Precision, alone: bool) -> Artifact:
    """The row of an engine of a graph. Of FP16 and FP32 the only one that was built has the backend's own name."""
    if graph in EIGHT_BITS:
        return next(row for row in artifacts_of(backend) if row.precision == graph)
    if alone or graph == ARTIFACTS[backend].precision:
        return ARTIFACTS[backend]
    return next(row for row in artifacts_of(backend) if row.precision == "tf32")


def held_by(manifest: "Manifest") -> list[Artifact]:
    """What a run or bundle holds, in the table's order, each in the precision that its stage recorded."""
    return [row for row in _recorded(manifest) if _is_held(row, manifest)]


def listed(manifest: "Manifest") -> list[Artifact]:
    """What is told of a run: all that it holds, and what every backend would run by itself."""
    return [row for row in _recorded(manifest) if row.name == row.backend or _is_held(row, manifest)]


def chosen(manifest: "Manifest", backend: str, precision: Precision | None) -> list[Artifact]:
    """The rows that are meant, those that the run holds first: one for a backend without a precision, all of a family.

    A precision takes them from the backend's other rows too; none is an error that lists what there is.
    """
    if precision is not None:
        _require_known("precision", precision, get_args(Precision), f"ask for one of: {', '.join(get_args(Precision))}")
    rows = (
        sorted(_recorded(manifest), key=lambda row: not _is_held(row, manifest)) if precision else _recorded(manifest)
    )
    if backend in FAMILIES:
        rows = [row for row in rows if backend in {AUTO, "gpu" if row.needs_gpu else "cpu"}]
    else:
        artifact_named(backend)
        rows = [row for row in rows if backend == row.name or (precision and backend == row.backend)]
    found = [row for row in rows if precision in {None, row.precision}]
    if not found:
        known = ", ".join(sorted({row.precision for row in rows}, key=get_args(Precision).index))
        what = "nothing computes" if backend in FAMILIES else f"backend '{backend}' does not compute"
        raise InputError(f"{what} in {precision}", hint=f"ask for one of: {known}")
    return found


def is_finer(precision: Precision, floor: Precision) -> bool:
    """Whether it is as fine as the floor, or finer."""
    finest_first = get_args(Precision)
    return finest_first.index(precision) <= finest_first.index(floor)


def _is_held(row: Artifact, manifest: "Manifest") -> bool:
    return row.stage in manifest.stages and row.file in manifest.stages[row.stage].outputs


def _recorded(manifest: "Manifest") -> list[Artifact]:
    """Every row. An engine of the FP32 graph alone lies under the plain name, and computes in TF32."""
    record = manifest.stages.get(BUILD)
    settings = record.params.get(BUILD) if record else None
    is_full = isinstance(settings, dict) and settings.get("precision") == "fp32"
    full = {backend for backend in BACKENDS if is_full and ARTIFACTS[backend].is_engine}
    return [replace(row, precision="tf32") if row.name in full else row for row in _ROWS]
