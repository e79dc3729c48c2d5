"""InstanceSegmenter: the runtime of networks that tell things one by one. Frames in, boxes and masks out.

A class of its own, not another answer of `Segmenter`: who embeds it knows which kind of network it is, and types that
tell it (a mask is an array, things are not) find mistakes before a frame comes. Inside both are one way.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from segpipe.artifacts import AUTO, Precision
from segpipe.contract.schema import InstanceContract
from segpipe.instances import Instances
from segpipe.palette import Colours
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import Backend
from segpipe.runtime.frames import Order
from segpipe.runtime.opening import Wanted, open_parts
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.tiling import Progress, Tiling

if TYPE_CHECKING:
    from segpipe.runtime.frames import Frame

_PLAIN = Outputs()


class InstanceSegmenter:
    """Frames in, things out. Open it with `InstanceSegmenter.open`; safe to call from several threads."""

    def __init__(
        self,
        backend: Backend,
        contract: InstanceContract,
        palette: Colours,
        artifact_sha256: str = "",
        order: Order = "rgb",
    ) -> None:
        frames: Any = contract  # what a Segmenter asks of its contract is said of frames alone
        self.contract = contract
        self._segmenter = Segmenter(backend, frames, palette, artifact_sha256, order)

    @classmethod
    def open(
        cls,
        run: str | Path,
        backend: str = AUTO,
        *,
        precision: Precision | None = None,
        device: int = 0,
        threads: int = 0,
        allow_unvalidated: bool = False,
        order: Order = "rgb",
    ) -> Self:
        """Open a run directory or a bundle. Artifacts are hashed, and refused without a passed verdict of the gate.

        Args:
            run: The folder of the run or of the bundle.
            backend: What runs the network, as for `Segmenter.open`.
            precision: Only what computes in this, also where `auto` would not take it.
            device: Number of the GPU, as CUDA counts them. Boxes and masks are downloaded and pasted on the host.
            threads: Threads of a backend on the CPU; 0 takes one a core.
            allow_unvalidated: Open what the gate has not passed, while developing.
            order: Channel order of frames that are arrays, and of pictures.
        """
        directory, options = RunDirectory(Path(run)), OpenOptions(device, threads)
        wanted = Wanted(backend, precision, allow_unvalidated)
        parts = open_parts(directory, InstanceContract, wanted, options, order)
        return cls(parts.backend, parts.contract, parts.palette, parts.artifact_sha256, order)

    @property
    def palette(self) -> Colours:
        """A colour for each class."""
        return self._segmenter.palette

    @property
    def order(self) -> Order:
        """Channel order of frames and pictures."""
        return self._segmenter.order

    @property
    def max_pixels(self) -> int:
        """The largest frame taken whole; may be raised."""
        return self._segmenter.max_pixels

    @max_pixels.setter
    def max_pixels(self, pixels: int) -> None:
        self._segmenter.max_pixels = pixels

    @property
    def artifact_sha256(self) -> str:
        """Of the network."""
        return self._segmenter.artifact_sha256

    @overload
    def __call__(self, frames: list[Any] | tuple[Any, ...]) -> list[Instances]: ...
    @overload
    def __call__(self, frames: "Frame") -> Instances: ...
    def __call__(self, frames: Any) -> Instances | list[Instances]:
        """One frame to its things, an array NxHxWxC or a list of frames to a list.

        Args:
            frames: Whatever a `Segmenter` takes.
        """
        if getattr(frames, "ndim", 0) == 4:
            frames = [*frames]
        found: Any = self._segmenter(frames)
        if isinstance(found, list):
            return [self._shown(answer) for answer in found]
        return self._shown(found)

    def detail(self, frame: "Frame", outputs: Outputs = _PLAIN) -> Instances:
        """One frame's things, with what else is asked for.

        Args:
            frame: Whatever the segmenter takes.
            outputs: `scores` adds what the rows were picked from; `at_network_size` answers on the network's canvas.
        """
        found: Any = self._segmenter.detail(frame, outputs)
        return self._shown(found)

    def tiled(self, frame: "Frame", tiling: Tiling | None = None, progress: Progress | None = None) -> Instances:
        """The things of a frame of any size, from overlapping tiles. What several tiles show of a thing is told once.

        Args:
            frame: Whatever the segmenter takes on the host; files up to 256 megapixels, arrays of any size.
            tiling: How the frame is cut; by default into tiles of the network's size. A thing larger than what two
                tiles share is put together from what each shows of it.
            progress: Called with the number of tiles that are done, and of all tiles.
        """
        found: Any = self._segmenter.tiled(frame, tiling, progress)
        return self._shown(found)

    def stream(self, frames: Iterable[Any], *, workers: int = 0) -> Iterator[Instances]:
        """Things of a sequence of frames, in order.

        Args:
            frames: Frames as the segmenter takes them, advanced in the caller's thread.
            workers: How many are in work at once, and one more waits; 0: as many as help.
        """
        found: Any = self._segmenter.stream(frames, workers=workers)
        return (self._shown(answer) for answer in found)

    def warm_up(self, size: tuple[int, int] | None = None, batch: int = 1) -> None:
        """Pay the costs of the first calls before real frames come.

        Args:
            size: Height and width of the frames to come; by default the network's.
            batch: How many come in one list.
        """
        self._segmenter.warm_up(size, batch)

    def describe(self) -> dict[str, Any]:
        """What runs where: backend, device, versions, and the hashes of artifact and contract."""
        return self._segmenter.describe()

    def close(self) -> None:
        """Free the backend; calling it twice is harmless."""
        self._segmenter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _shown(self, answer: Instances) -> Instances:
        return answer.shown_with(self.palette, self.order)
