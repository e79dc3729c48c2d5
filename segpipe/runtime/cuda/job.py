"""GpuJob: what tells two kinds of work of a lane apart, the engine's tensors in it, and what the lane lends to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from segpipe.contract.schema import FrameContract
from segpipe.runtime.cuda.buffers import Buffers
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.request import Outputs


@dataclass(frozen=True)
class GpuJob:
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
class TensorSpec:
    """A tensor of the engine's, batch first."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def size_bytes(self) -> int:
        """Memory that it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensors:
    """The engine's side of a job."""

    source: TensorSpec
    outputs: Mapping[str, TensorSpec]
    """By name."""
    scratch_bytes: int = 0


@dataclass(frozen=True)
class Place:
    """What a lane lends to the steps of a job. Addresses hold until a buffer moves."""

    device: Device
    kernels: Kernels
    contract: FrameContract
    buffers: Buffers
    constants: int
    """Device address of the normalisation's scale and shift."""
    stream: int


def output_role(name: str) -> str:
    """The buffer of one of the engine's outputs."""
    return f"output {name}"
