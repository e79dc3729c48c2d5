"""Plan: one kind of job (frame size, batch, wanted outputs) worked out once: shapes, sizes, tables, arguments."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segpipe.contract.schema import Contract, Placement
from segpipe.errors import BackendError
from segpipe.runtime.cuda.geometry import Tables, canvas_tables, mask_tables
from segpipe.runtime.cuda.kernels import KINDS, PreArguments, ScoreArguments
from segpipe.runtime.request import Outputs


@dataclass(frozen=True)
class Job:
    """What tells two jobs apart: a CUDA graph is made for each."""

    height: int
    width: int
    frames: int
    batch: int
    """What the engine runs at once: as many frames, or more where it takes no fewer."""
    on_device: bool
    """The frames come from the GPU's memory, not the host's."""
    outputs: Outputs
    pinned: int = 0
    """Where the one frame lies in page-locked memory of the caller's; 0 for frames that go to staging memory first."""


@dataclass(frozen=True)
class Shapes:
    """The engine's side of a job: batch x channels x height x width in the contract's layouts."""

    source: tuple[int, ...]
    output: tuple[int, ...]
    input_dtype: str
    output_dtype: str
    scratch_bytes: int = 0


class Plan:
    """A job with everything that does not change from one frame to the next. Addresses are put in by the lane."""

    def __init__(self, job: Job, contract: Contract, shapes: Shapes) -> None:
        self.job, self.shapes = job, shapes
        self._contract = contract
        self.placement = contract.place(job.height, job.width)
        self.channels, self.height, self.width = score_grid(contract, shapes.output)
        self.tables_address = 0

    @cached_property
    def target(self) -> Placement:
        """Where masks lie: on the source frame, or on the network's canvas."""
        return self.placement.whole_canvas() if self.job.outputs.at_network_size else self.placement

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """One frame."""
        return self.job.height, self.job.width, self._contract.channels

    @property
    def mask_shape(self) -> tuple[int, int, int]:
        """All masks of the job."""
        return self.job.frames, *self.target.source

    @property
    def wants_confidence(self) -> bool:
        """A network that answers labels knows none."""
        return self.job.outputs.confidence and self._contract.output_kind != "labels"

    @property
    def wants_scores(self) -> bool:
        """A network that answers labels has none."""
        return self.job.outputs.scores and self._contract.output_kind != "labels"

    @cached_property
    def tables(self) -> tuple[Tables, Tables]:
        """Taps of the canvas, and of the mask."""
        return canvas_tables(self.placement), mask_tables(self.target, self.height, self.width)

    def table_bytes(self) -> bytes:
        """All taps behind one another, as they lie at `tables_address`."""
        canvas, mask = self.tables
        return b"".join(taps.tobytes() for taps in (canvas.rows, canvas.columns, mask.rows, mask.columns))

    def sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes of each device and each page-locked buffer."""
        frames = self.job.frames * math.prod(self.frame_shape) * np.dtype(self._contract.dtype).itemsize
        masks = math.prod(self.mask_shape)
        output = math.prod(self.shapes.output) * np.dtype(self.shapes.output_dtype).itemsize
        mask_item = np.dtype(self._contract.mask_dtype).itemsize
        device = {
            "frames": frames,
            "input": math.prod(self.shapes.source) * np.dtype(self.shapes.input_dtype).itemsize,
            "output": output,
            "labels": self.job.frames * self.height * self.width * mask_item,
            "mask": masks * mask_item,
            "confidence": masks * 4 if self.wants_confidence else 0,
            "scratch": self.shapes.scratch_bytes,
        }
        host = not self.job.outputs.on_device
        pinned = {
            "frames": 0 if self.job.on_device or self.job.pinned else frames,
            "mask": device["mask"] if host else 0,
            "confidence": device["confidence"] if host else 0,
            "scores": output if self.wants_scores else 0,
        }
        return {role: size for role, size in device.items() if size}, {r: size for r, size in pinned.items() if size}

    def pre_arguments(self) -> PreArguments:
        """Geometry of the first kernel."""
        canvas, _ = self.tables
        rows = self.tables_address
        return PreArguments(
            rows=rows,
            columns=rows + canvas.rows.nbytes,
            height=self.job.height,
            width=self.job.width,
            channels=self._contract.channels,
            canvas_height=self.placement.canvas[0],
            canvas_width=self.placement.canvas[1],
            nhwc=self._contract.input_layout == "nhwc",
            reversed=self._contract.channel_order == "bgr",
        )

    def score_arguments(self) -> ScoreArguments:
        """Geometry of the last kernels."""
        canvas, mask = self.tables
        rows = self.tables_address + canvas.rows.nbytes + canvas.columns.nbytes
        kind, threshold = self._contract.output_kind, self._contract.threshold
        return ScoreArguments(
            rows=rows,
            columns=rows + mask.rows.nbytes,
            height=self.height,
            width=self.width,
            channels=self.channels,
            mask_height=self.target.source[0],
            mask_width=self.target.source[1],
            nhwc=self._contract.output_layout == "nhwc",
            kind=KINDS[kind],
            limit=math.log(threshold / (1 - threshold)) if kind == "sigmoid" else 0.0,
        )


def input_shape(contract: Contract, placement: Placement, batch: int) -> tuple[int, int, int, int]:
    """The network's input for a batch of frames that are placed like this."""
    height, width = placement.canvas
    if contract.input_layout == "nhwc":
        return batch, height, width, contract.channels
    return batch, contract.channels, height, width


def score_grid(contract: Contract, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of one frame's output, compared with the contract."""
    channels = contract.score_channels
    if len(shape) == 3 and contract.output_kind == "labels":
        found = (1, *shape[1:])
    elif len(shape) == 4:
        found = (shape[3], shape[1], shape[2]) if contract.output_layout == "nhwc" else shape[1:]
    else:
        found = (0, 0, 0)
    if found[0] != channels or min(found) < 1:
        wanted = f"{channels} channel{'s' if channels > 1 else ''}, {contract.output_layout}"
        raise BackendError(f"the engine answers {shape}, the contract says {wanted}", hint="export and build again")
    return int(found[0]), int(found[1]), int(found[2])
