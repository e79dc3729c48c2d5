"""The seam between the runtime and what computes: the Backend protocol, and opening one by name."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import BackendMissingError, InputError

_HOMES = {"onnxruntime-cpu": "segpipe.runtime.backends.onnxruntime"}
_INSTALL = {"onnxruntime-cpu": "pip install 'segpipe[cpu]'"}
ARTIFACTS = {"onnxruntime-cpu": ("export", "model.onnx")}
"""Which finished file each backend runs, best backend first."""


class Backend(Protocol):
    """Owns the way from frames to masks. Safe to call from several threads."""

    name: str
    device: str

    def infer(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Checked HxWxC frames, of any sizes, to HxW masks that the caller owns."""
        ...

    def describe(self) -> dict[str, Any]:
        """Versions, providers and settings, for logs and reports."""
        ...

    def close(self) -> None:
        """Free what the backend holds; calling it twice is harmless."""
        ...


def open_backend(name: str, artifact: bytes, contract: Contract) -> Backend:
    """Load a backend's package and open an artifact whose bytes were checked."""
    require_known(name)
    try:
        module = import_module(_HOMES[name])
    except ImportError as error:
        raise BackendMissingError(f"backend '{name}' cannot be imported: {error}", hint=_INSTALL[name]) from error
    backend: Backend = module.open(artifact, contract)
    return backend


def require_known(name: str) -> None:
    """Refuse a name that no backend has."""
    if name not in _HOMES:
        raise InputError(f"there is no backend '{name}'", hint=f"use auto or one of: {', '.join(_HOMES)}")
