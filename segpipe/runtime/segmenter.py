"""Segmenter: the public runtime. Opens a run directory, picks a backend, turns frames into masks."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import ContractError, InputError
from segpipe.rundir import RunDirectory
from segpipe.runtime.backends import ARTIFACTS, Backend, open_backend, require_known
from segpipe.runtime.preprocess import check_frame
from segpipe.verdict import require_passed

_log = logging.getLogger(__name__)


class Segmenter:
    """Frames in, masks out. Open it with `Segmenter.open`; safe to call from several threads."""

    def __init__(self, backend: Backend, contract: Contract, palette: Sequence[Sequence[int]]) -> None:
        self.contract = contract
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in palette)
        self._backend: Backend | None = backend

    @classmethod
    def open(cls, run: str | Path, backend: str = "auto", *, allow_unvalidated: bool = False) -> Self:
        """Open a run directory. Every artifact is hashed, and refused without a passed verdict of the release gate."""
        directory = RunDirectory(Path(run))
        name = next(iter(ARTIFACTS)) if backend == "auto" else backend
        require_known(name)
        stage, file = ARTIFACTS[name]
        contract = run_contract(directory)
        artifact = directory.artifact_bytes(stage, file)
        opened = open_backend(name, artifact, contract)
        if not allow_unvalidated:
            require_passed(directory, directory.record(stage).outputs[file].sha256, name, opened.device)
        _log.info("%s: %s on %s runs %s/%s", run, name, opened.device, stage, file)
        return cls(opened, contract, json.loads(directory.artifact_bytes("export", "palette.json")))

    @overload
    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]: ...
    @overload
    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[Any]]: ...
    def __call__(self, frames: NDArray[Any] | Sequence[NDArray[Any]]) -> NDArray[Any] | list[NDArray[Any]]:
        """One HxWxC frame to its HxW mask, or a list of frames to a list of masks. Masks belong to the caller."""
        backend = self._opened()
        if isinstance(frames, (list, tuple)):
            return backend.infer([check_frame(frame, self.contract) for frame in frames])
        return backend.infer([check_frame(frames, self.contract)])[0]

    def stream(self, frames: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Masks of a sequence of frames, in order; one frame is in memory at a time."""
        for frame in frames:
            yield self(frame)

    def describe(self) -> dict[str, Any]:
        """What runs where: backend, device, versions and the contract's hash."""
        backend = self._opened()
        return {
            "backend": backend.name,
            "device": backend.device,
            "contract_sha256": self.contract.sha256,
            **backend.describe(),
        }

    def close(self) -> None:
        """Free the backend; calling it twice is harmless."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _opened(self) -> Backend:
        if self._backend is None:
            raise InputError("this segmenter is closed", hint="open the run again with Segmenter.open")
        return self._backend


def run_contract(run: RunDirectory) -> Contract:
    """The contract a run was exported with, held against the manifest."""
    contract = Contract.from_json(run.artifact_bytes("export", "contract.json"), f"{run.path}/export")
    wanted = run.manifest.contract_sha256 or "none"
    if contract.sha256 != wanted:
        raise ContractError(
            f"export was made for contract {contract.sha256[:12]}, the run has {wanted[:12]}",
            hint=f"run `segpipe run {run.path}`",
        )
    return contract
