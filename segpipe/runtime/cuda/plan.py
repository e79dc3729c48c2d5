"""Plan: one kind of job worked out once: where frames lie, sizes of buffers, tables, arguments of the first kernel."""

import math
from functools import cached_property

import numpy as np

from segpipe.contract.schema import FrameContract, Placement
from segpipe.runtime.cuda.decoding import decoding_of
from segpipe.runtime.cuda.geometry import Tables, canvas_tables
from segpipe.runtime.cuda.job import GpuJob, Tensors, output_role
from segpipe.runtime.cuda.kernels import PreArguments
from segpipe.tasks import task_of


class Plan:
    """A job with everything that does not change from one frame to the next. Addresses are put in by the lane."""

    def __init__(self, job: GpuJob, contract: FrameContract, tensors: Tensors) -> None:
        self.job, self.tensors = job, tensors
        self._contract = contract
        self.placement = contract.place(job.height, job.width)
        self.decoding = decoding_of(task_of(contract), job, self.placement, tensors)
        self.tables_address = 0

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """One frame."""
        return self.job.height, self.job.width, self._contract.channels

    @cached_property
    def _canvas(self) -> Tables:
        return canvas_tables(self.placement)

    def table_bytes(self) -> bytes:
        """Taps of the canvas and the decoding's tables, as they lie at `tables_address`."""
        return self._canvas.rows.tobytes() + self._canvas.columns.tobytes() + self.decoding.tables()

    @property
    def decoding_tables(self) -> int:
        """Device address of the decoding's tables."""
        return self.tables_address + self._canvas.rows.nbytes + self._canvas.columns.nbytes

    def sizes(self) -> tuple[dict[str, int], dict[str, int]]:
        """Bytes of each device and each page-locked buffer."""
        frames = self.job.frames * math.prod(self.frame_shape) * np.dtype(self._contract.dtype).itemsize
        device = {
            "frames": frames,
            "input": self.tensors.source.size_bytes,
            **{output_role(name): spec.size_bytes for name, spec in self.tensors.outputs.items()},
            **self.decoding.device_bytes,
            "scratch": self.tensors.scratch_bytes,
        }
        pinned = {
            "frames": 0 if self.job.on_device or self.job.pinned else frames,
            **{role: spec.size_bytes for role, spec in self.decoding.downloads.items()},
        }
        return {role: size for role, size in device.items() if size}, {r: size for r, size in pinned.items() if size}

    def pre_arguments(self) -> PreArguments:
        """Geometry of the first kernel."""
        rows = self.tables_address
        return PreArguments(
            rows=rows,
            columns=rows + self._canvas.rows.nbytes,
            height=self.job.height,
            width=self.job.width,
            channels=self._contract.channels,
            canvas_height=self.placement.canvas[0],
            canvas_width=self.placement.canvas[1],
            nhwc=self._contract.input_layout == "nhwc",
            reversed=self._contract.channel_order == "bgr",
        )


def input_shape(contract: FrameContract, placement: Placement, batch: int) -> tuple[int, int, int, int]:
    """The network's input for a batch of frames that are placed like this."""
    height, width = placement.canvas
    if contract.input_layout == "nhwc":
        return batch, height, width, contract.channels
    return batch, contract.channels, height, width
