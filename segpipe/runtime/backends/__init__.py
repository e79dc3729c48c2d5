"""The seam between the runtime and what computes: the Backend protocol, and opening one by name."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.artifacts import Artifact, artifact_named
from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendError, BackendMissingError
from segpipe.runtime.request import OpenOptions, Outputs


class Backend(Protocol):
    """Owns the way from frames to answers. Safe to call from several threads."""

    name: str
    device: str
    """As in verdicts of the release gate: `segpipe.processor.device_name` of the precision, or the GPU's name."""

    def infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Any]:
        """Checked HxWxC frames, of any sizes, to what the contract's task makes of each; the caller owns it.

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

    def __call__(self, artifact: bytes, contract: FrameContract, options: OpenOptions) -> Backend: ...


def load_opener(name: str) -> Opener:
    """Import the package of what `name` names in the table of artifacts, or say how to get it."""
    row = artifact_named(name)
    try:
        opener: Opener = import_module(f"{__name__}.{row.spec.module}").open
    except ImportError as error:
        raise BackendMissingError(
            f"backend '{name}' cannot be imported: {error}", hint=f"pip install 'segpipe[{row.spec.extra}]'"
        ) from error

    def opened(artifact: bytes, contract: FrameContract, options: OpenOptions) -> Backend:
        refuse_contract(row, contract)
        return opener(artifact, contract, replace(options, name=row.name, precision=row.precision))

    return opened


def refuse_contract(row: Artifact, contract: FrameContract) -> None:
    """BackendError where this is for GPUs and the contract asks for what none does."""
    if row.needs_gpu and contract.only_on_host:
        raise BackendError(
            f"{row.name}: the contract's {contract.only_on_host} is done on CPUs only",
            hint="open it with backend='cpu', or leave it out of the contract and measure what that costs",
        )
