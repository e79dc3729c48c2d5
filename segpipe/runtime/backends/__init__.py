"""The seam between the runtime and what computes: the Backend protocol, and opening one by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import BackendMissingError, InputError
from segpipe.runtime.request import Decoded, OpenOptions, Outputs


class Backend(Protocol):
    """Owns the way from frames to masks. Safe to call from several threads."""

    name: str
    device: str
    """'cpu', or the GPU's name: what a verdict of the release gate is for."""

    def infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Decoded]:
        """Checked HxWxC frames, of any sizes, to results that the caller owns.

        Frames are numpy arrays; on a GPU also anything that speaks `__cuda_array_interface__` or DLPack.
        """
        ...

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Memory for a frame, from which this backend reads fastest."""
        ...

    def warm_up(self, frames: Sequence[Any], lanes: int) -> None:
        """Pay the costs of the first calls for frames like these, `lanes` of them at once."""
        ...

    def describe(self) -> dict[str, Any]:
        """Versions, providers and settings, for logs and reports."""
        ...

    def close(self) -> None:
        """Free what the backend holds; calling it twice is harmless."""
        ...


class Opener(Protocol):
    """How a backend module opens artifact bytes that were checked before."""

    def __call__(self, artifact: bytes, contract: Contract, options: OpenOptions) -> Backend: ...


@dataclass(frozen=True)
class _Home:
    """Where a backend lives, what it runs and how to get it."""

    module: str
    attribute: str
    artifact: tuple[str, str]
    """(stage, file) in the run directory."""
    extra: str


_HOMES = {
    "tensorrt": _Home("tensorrt", "open_tensorrt", ("build", "model.tensorrt.engine"), "tensorrt"),
    "tensorrt-rtx": _Home("tensorrt", "open_rtx", ("build", "model.rtx.engine"), "rtx"),
    "onnxruntime-cuda-fp16": _Home("onnxruntime_cuda", "open_half", ("export", "model.fp16.onnx"), "cuda"),
    "onnxruntime-cuda": _Home("onnxruntime_cuda", "open", ("export", "model.onnx"), "cuda"),
    "onnxruntime-cpu": _Home("onnxruntime", "open", ("export", "model.onnx"), "cpu"),
}
ARTIFACTS = {name: home.artifact for name, home in _HOMES.items()}
"""Which finished file each backend runs, best backend first."""
WITHOUT_GPU = "onnxruntime-cpu"


def load_opener(name: str) -> Opener:
    """Import a backend's package, or say how to get it."""
    require_known(name)
    home = _HOMES[name]
    try:
        opener: Opener = getattr(import_module(f"{__name__}.{home.module}"), home.attribute)
    except ImportError as error:
        raise BackendMissingError(
            f"backend '{name}' cannot be imported: {error}", hint=f"pip install 'segpipe[{home.extra}]'"
        ) from error
    return opener


def require_known(name: str) -> None:
    """Refuse a name that no backend has."""
    if name not in _HOMES:
        raise InputError(f"there is no backend '{name}'", hint=f"use auto or one of: {', '.join(_HOMES)}")
