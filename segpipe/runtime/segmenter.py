"""Segmenter: the public runtime. Opens a run directory, picks a backend, turns frames into masks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.palette import Colours, read_palette
from segpipe.processor import is_cpu
from segpipe.result import Result
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend
from segpipe.runtime.opening import open_run, run_contract
from segpipe.runtime.preprocess import check_device_frame, check_frame
from segpipe.runtime.request import Decoded, OpenOptions, Outputs
from segpipe.runtime.streaming import ordered
from segpipe.runtime.tiling import Progress, Tiling
from segpipe.tasks import task_of

_ONLY_MASK = Outputs()
_GPU_STREAMS = 3  # one frame on its way up, one computed, one on its way down
_WARM_UP_SIDE = 512  # for networks that follow the frame's size


class Segmenter:
    """Frames in, masks out. Open it with `Segmenter.open`; safe to call from several threads."""

    max_pixels = 1 << 26
    """The largest frame taken whole; a class attribute that an instance may raise."""

    def __init__(
        self, backend: Backend, contract: Contract, palette: Sequence[Sequence[int]], artifact_sha256: str = ""
    ) -> None:
        self.contract = contract
        self._task = task_of(contract)
        self.artifact_sha256 = artifact_sha256
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in palette)
        self._backend: Backend | None = backend
        on_cpu = is_cpu(backend.device)
        self._workers = backend.describe().get("threads", _GPU_STREAMS) if on_cpu else _GPU_STREAMS

    @classmethod
    def open(
        cls,
        run: str | Path,
        backend: str = "auto",
        *,
        device: int = 0,
        threads: int = 0,
        cuda: Literal["auto", "pycuda", "cuda-python"] = "auto",
        allow_unvalidated: bool = False,
    ) -> Self:
        """Open a run directory or a bundle. Artifacts are hashed, and refused without a passed verdict of the gate."""
        directory, options = RunDirectory(Path(run)), OpenOptions(device, threads, cuda)

        def read() -> tuple[Backend, Contract, Colours, str]:
            contract = run_contract(directory)
            palette = read_palette(directory, "export", contract)
            opened, sha256 = open_run(directory, backend, options, allow_unvalidated)
            return opened, contract, palette, sha256

        return cls(*directory.at_one_moment(read, discard=lambda parts: parts[0].close()))

    @overload
    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[NDArray[Any]]: ...
    @overload
    def __call__(self, frames: Any) -> NDArray[Any]: ...
    def __call__(self, frames: Any) -> NDArray[Any] | list[NDArray[Any]]:
        """One HxWxC frame to its HxW mask, NxHxWxC to NxHxW, a list of frames to a list. Masks belong to the caller."""
        if isinstance(frames, (list, tuple)):
            return [result.mask for result in self._infer(frames, _ONLY_MASK)]
        if isinstance(frames, np.ndarray) and frames.ndim == 4 and len(frames):
            return np.stack(self([*frames]))
        return self._infer([frames], _ONLY_MASK)[0].mask

    def detail(self, frame: Any, outputs: Outputs = _ONLY_MASK) -> Result:
        """One frame's mask with what it means and what can be made of it: colours, polygons, areas.

        `outputs` asks for more: confidence, scores, or the mask at network size or on the GPU.
        """
        self._task.require(outputs)
        found = self._infer([frame], outputs)[0]
        return Result(found.mask, self.contract, self.palette, found.confidence, found.scores)

    def tiled(
        self, frame: NDArray[Any], tiling: Tiling | None = None, progress: Progress | None = None
    ) -> NDArray[Any]:
        """The mask of a frame of any size, from overlapping tiles whose scores are blended."""
        backend = self._opened()
        pixels = check_frame(frame, self.contract)
        mask: NDArray[Any] = self._task.tiled(backend, pixels, tiling or Tiling(), progress)
        return mask

    def stream(self, frames: Iterable[Any], *, workers: int = 0) -> Iterator[NDArray[Any]]:
        """Masks of a sequence of frames, in order, `workers` frames in work at once (0: as many as help) and one more.

        `frames` is advanced in the caller's thread. An error is raised where its frame's mask would have come.
        """
        self._opened()
        if workers < 0:
            raise InputError(f"stream has workers = {workers}", hint="give 0 (as many as help) or more")
        return ordered(self, frames, workers or self._workers)

    def warm_up(self, size: tuple[int, int] | None = None, batch: int = 1, *, workers: int = 0) -> None:
        """Pay the costs of the first calls for frames of this (height, width) before real frames come.

        On a GPU for `workers` frames in work at once, as `stream` has them (0: as many as help there).
        """
        backend = self._opened()
        side = size or self.contract.network_size or (_WARM_UP_SIDE, _WARM_UP_SIDE)
        blank = np.zeros((*side, self.contract.channels), self.contract.dtype)
        backend.warm_up([self._checked(blank, backend)] * batch, workers or self._workers)

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Memory for a frame, to be decoded or copied into: on a GPU it saves a copy of the frame on the host.

        Use it again once its mask is there, or drop it at any time.
        """
        return self._opened().pinned_frame(height, width)

    def describe(self) -> dict[str, Any]:
        """What runs where: backend, device, versions, and the hashes of artifact and contract."""
        backend = self._opened()
        return {
            "backend": backend.name,
            "device": backend.device,
            "artifact_sha256": self.artifact_sha256,
            "contract_sha256": self.contract.sha256,
            **backend.describe(),
        }

    def close(self) -> None:
        """Free the backend; calling it twice is harmless."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Decoded]:
        backend = self._opened()
        return backend.infer([self._checked(frame, backend) for frame in frames], outputs)

    def _checked(self, frame: Any, backend: Backend) -> Any:
        """The frame as the backend takes it, or an error that says what was wanted."""
        on_device = not is_cpu(backend.device) and not isinstance(frame, np.ndarray)
        pixels = check_device_frame(frame, self.contract) if on_device else check_frame(frame, self.contract)
        height, width = pixels.shape[:2]
        if height * width > self.max_pixels:
            raise InputError(
                f"the frame is {height}x{width}, more than {self.max_pixels} pixels",
                hint="pass it to Segmenter.tiled, which takes any size, or raise max_pixels",
            )
        return pixels

    def _opened(self) -> Backend:
        if self._backend is None:
            raise InputError("this segmenter is closed", hint="open the run again with Segmenter.open")
        return self._backend
