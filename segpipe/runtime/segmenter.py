"""Segmenter: the public runtime. Opens a run directory, picks a backend, turns frames into masks."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

import numpy as np
from numpy.typing import NDArray

from segpipe.artifacts import AUTO, Precision
from segpipe.contract.schema import Contract
from segpipe.errors import InputError, SegpipeError
from segpipe.media import MAX_MEGAPIXELS
from segpipe.processor import is_cpu
from segpipe.result import Result
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend
from segpipe.runtime.frames import Order, check_device_frame, lies_on_gpu, pixel_limit, pixels_of, require_order
from segpipe.runtime.opening import Opened, Wanted, open_parts
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.shadow import Shadow, ShadowReport, open_shadow, require_share
from segpipe.runtime.streaming import ordered
from segpipe.runtime.tiling import Progress, Rows, Tiling, Write, count_rows, segment_rows
from segpipe.tasks import task_of

if TYPE_CHECKING:
    from segpipe.runtime.frames import Frame

Mask = NDArray[np.uint8 | np.uint16]
"""HxW of class numbers: uint8, unless the contract's classes need uint16."""

_ONLY_MASK = Outputs()
_GPU_STREAMS = 3  # one frame on its way up, one computed, one on its way down
_WARM_UP_SIDE = 512  # for networks that follow the frame's size


class Segmenter:
    """Frames in, masks out. Open it with `Segmenter.open`; safe to call from several threads."""

    max_pixels = 1 << 26
    """The largest frame taken whole; a class attribute that an instance may raise."""

    def __init__(
        self,
        backend: Backend,
        contract: Contract,
        palette: Sequence[Sequence[int]],
        artifact_sha256: str = "",
        order: Order = "rgb",
        *,
        shadow: Shadow | None = None,
    ) -> None:
        require_order(order, contract)
        self.contract = contract
        self.order = order
        self._task = task_of(contract)
        self.artifact_sha256 = artifact_sha256
        self.palette = tuple((int(r), int(g), int(b)) for r, g, b in palette)
        self._backend: Backend | None = backend
        self._shadow = shadow
        on_cpu = is_cpu(backend.device)
        self._workers = backend.describe().get("threads", _GPU_STREAMS) if on_cpu else _GPU_STREAMS

    @classmethod
    def open(
        cls,
        run: str | Path,
        backend: str = AUTO,
        *,
        precision: Precision | None = None,
        device: int = 0,
        threads: int = 0,
        cuda: Literal["auto", "pycuda", "cuda-python"] = "auto",
        allow_unvalidated: bool = False,
        order: Order = "rgb",
        shadow: float = 0.0,
    ) -> Self:
        """Open a run directory or a bundle. Artifacts are hashed, and refused without a passed verdict of the gate.

        Args:
            run: The folder of the run or of the bundle.
            backend: What runs the network: a name that `segpipe doctor` lists, or `auto`: what this
                run's benchmark found fastest on this machine, else the best that is usable here, and nothing less
                fine than `[deploy]` says. `gpu` and `cpu` choose in the same way among what runs there.
            precision: Only what computes in this, also where `auto` would not take it.
            device: Number of the GPU, as CUDA counts them.
            threads: Threads of a backend on the CPU; 0 takes one a core.
            cuda: Which package talks to the GPU; `auto` takes PyCUDA where it is installed.
            allow_unvalidated: Open what the gate has not passed, while developing.
            order: Channel order of frames that are arrays, and of the pictures that a `Result` draws: `bgr` for frames
                of OpenCV. Files, encoded images and PIL images know theirs. On the host a frame is copied for it.
            shadow: Share of the frames that also go through the FP32 graph on the CPU, in the background, one at a
                time: `shadow_report` tells how many pixels differ.
        """
        directory, options = RunDirectory(Path(run)), OpenOptions(device, threads, cuda)
        require_share(shadow)

        def read() -> tuple[Opened[Contract], Shadow | None]:
            parts = open_parts(directory, Contract, Wanted(backend, precision, allow_unvalidated), options, order)
            if not shadow:
                return parts, None
            try:
                return parts, open_shadow(directory, parts.artifact_sha256, shadow, allow_unvalidated)
            except SegpipeError:
                parts.backend.close()
                raise

        def discard(found: tuple[Opened[Contract], Shadow | None]) -> None:
            found[0].backend.close()
            if found[1] is not None:
                found[1].close()

        parts, beside = directory.at_one_moment(read, discard)
        return cls(parts.backend, parts.contract, parts.palette, parts.artifact_sha256, order, shadow=beside)

    @overload
    def __call__(self, frames: list[Any] | tuple[Any, ...]) -> list[Mask]: ...
    @overload
    def __call__(self, frames: "Frame") -> Mask: ...
    def __call__(self, frames: Any) -> Mask | list[Mask]:
        """One frame to its HxW mask, an array NxHxWxC to NxHxW, a list of frames to a list. Masks belong to the caller.

        Args:
            frames: An array HxWxC of the contract's type (HxW for one channel), of numpy, of PyTorch, or of whatever
                speaks DLPack or numpy's protocols; a PIL image; the path of an image file, as str or Path; an encoded
                image as bytes. Files and images of PIL are turned upright by their EXIF. On a GPU backend also an
                array in the GPU's memory. Or a list or tuple of these, mixed as you like.
        """
        if isinstance(frames, (list, tuple)):
            return [self._task.plain(answer) for answer in self._infer(frames, _ONLY_MASK)]
        if getattr(frames, "ndim", 0) == 4 and len(frames):
            return np.stack(self([*frames]))
        mask: Mask = self._task.plain(self._infer([frames], _ONLY_MASK)[0])
        return mask

    def detail(self, frame: "Frame", outputs: Outputs = _ONLY_MASK) -> Result:
        """One frame's mask with what it means and what can be made of it: colours, polygons, areas.

        Args:
            frame: Whatever the segmenter takes.
            outputs: What else to answer: confidence, scores, or the mask at network size or on the GPU.
        """
        self._task.require(outputs)
        result: Result = self._task.result(self._infer([frame], outputs)[0], self.palette, self.order)
        return result

    def tiled(self, frame: "Frame", tiling: Tiling | None = None, progress: Progress | None = None) -> Mask:
        """The mask of a frame of any size, from overlapping tiles whose scores are blended.

        Args:
            frame: Whatever the segmenter takes on the host; files up to 256 megapixels, arrays of any size.
            tiling: How the frame is cut; by default into tiles of the network's size.
            progress: Called with the number of tiles that are done, and of all tiles.
        """
        backend = self._opened()
        fits = pixel_limit(MAX_MEGAPIXELS * 1_000_000, "cut it up, or decode it yourself and pass the array")
        pixels = pixels_of(frame, self.contract, self.order, fits)
        mask: Mask = self._task.tiled(backend, pixels, tiling or Tiling(), progress)
        return mask

    def tiled_rows(
        self,
        frame: Rows,
        write: Write,
        tiling: Tiling | None = None,
        progress: Progress | None = None,
        *,
        wanted: range | None = None,
    ) -> None:
        """The mask that `tiled` gives, of a frame that need not fit into memory: both go by rows, from top to bottom.

        Args:
            frame: Has its `size`, and reads rows HxWxC of the contract's type, in RGB order.
            write: Called with the number of a row of the mask, and that row and those after it.
            tiling: How the frame is cut, as in `tiled`.
            progress: Called with the number of tiles that are done, and of all tiles.
            wanted: Only what these of the frame's `tile_rows` settle. One process may do some and another the rest: in
                turn they give the mask, to the last bit. Each costs the row of tiles before its first one again.
        """
        segment_rows(
            self._opened(), self.contract, frame, write, tiling=tiling or Tiling(), progress=progress, wanted=wanted
        )

    def tile_rows(self, frame: Rows, tiling: Tiling | None = None) -> int:
        """How many rows of tiles `tiled_rows` cuts a frame into; it costs a tile."""
        return count_rows(self._opened(), self.contract, frame, tiling or Tiling())

    def stream(self, frames: Iterable[Any], *, workers: int = 0) -> Iterator[Mask]:
        """Masks of a sequence of frames, in order.

        Args:
            frames: Frames as the segmenter takes them, advanced in the caller's thread. An error is raised where its
                frame's mask would have come.
            workers: How many are in work at once, and one more waits; 0: as many as help.
        """
        self._opened()
        if workers < 0:
            raise InputError(f"stream has workers = {workers}", hint="give 0 (as many as help) or more")
        return ordered(self, frames, workers or self._workers)

    def warm_up(self, size: tuple[int, int] | None = None, batch: int = 1, *, workers: int = 0) -> None:
        """Pay the costs of the first calls before real frames come.

        Args:
            size: Height and width of the frames to come; by default the network's.
            batch: How many come in one list.
            workers: On a GPU, how many are in work at once, as `stream` has them; 0: as many as help there.
        """
        backend = self._opened()
        side = size or self.contract.network_size or (_WARM_UP_SIDE, _WARM_UP_SIDE)
        blank = np.zeros((*side, self.contract.channels), self.contract.dtype)
        backend.warm_up([self._checked(blank, backend)] * batch, workers or self._workers)

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Memory for a frame, to be decoded or copied into: on a GPU it saves a copy of the frame on the host.

        Use it again once its mask is there, or drop it at any time. With order `bgr` it saves nothing.
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

    @property
    def shadow_report(self) -> ShadowReport | None:
        """What the shadow has seen; None where the segmenter was opened without one."""
        return self._shadow.report if self._shadow else None

    def close(self) -> None:
        """Free the backend; calling it twice is harmless."""
        backend, self._backend = self._backend, None
        if self._shadow is not None:
            self._shadow.close()
        if backend is not None:
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Any]:
        backend = self._opened()
        checked = [self._checked(frame, backend) for frame in frames]
        answers = backend.infer(checked, outputs)
        if self._shadow is not None and not outputs.at_network_size:
            for frame, answer in zip(checked, answers, strict=True):
                self._shadow.offer(frame, self._task.plain(answer))
        return answers

    def _checked(self, frame: Any, backend: Backend) -> Any:
        """The frame as the backend takes it, or an error that says what was wanted."""
        fits = pixel_limit(self.max_pixels, "pass it to Segmenter.tiled, which takes any size, or raise max_pixels")
        if not is_cpu(backend.device) and lies_on_gpu(frame):
            pixels = check_device_frame(frame, self.contract, self.order)
        else:
            pixels = pixels_of(frame, self.contract, self.order, fits)
        fits(*pixels.shape[:2])
        return pixels

    def _opened(self) -> Backend:
        if self._backend is None:
            raise InputError("this segmenter is closed", hint="open the run again with Segmenter.open")
        return self._backend
