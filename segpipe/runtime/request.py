"""What is asked of a backend and what it answers: the types on the seam between Segmenter and backends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import NDArray

from segpipe.artifacts import ON_CPU, Precision
from segpipe.contract.schema import Placement


@dataclass(frozen=True)
class BuiltFor:
    """What the build recorded about the machine an engine is for; None where it recorded nothing."""

    version: str | None = None
    """Of the TensorRT flavour."""
    gpu: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    system: str | None = None
    """platform.system() of the builder."""
    version_compatible: bool = False
    hardware_compatibility: Literal["none", "ampere-plus", "same-compute-capability"] = "none"


@dataclass(frozen=True)
class OpenOptions:
    """How to open a backend. Each backend reads what concerns it."""

    device: int = 0
    threads: int = 0
    """Threads of a backend on the CPU; 0 takes one a core."""
    cuda: Literal["auto", "pycuda", "cuda-python"] = "auto"
    kernels: Mapping[str, bytes] = field(default_factory=dict)
    """File name -> machine code, as the build stage stored it; without it kernels are compiled when they are needed."""
    built_for: BuiltFor = BuiltFor()
    name: str = ON_CPU.name
    """What is opened, as the table of artifacts calls it."""
    precision: Precision = ON_CPU.precision
    """What it computes in."""
    frugal: bool = False
    """Give a network's memory back after each call, which costs time: the gate has several networks open at once."""
    run: str = "RUN"
    """How the run directory is called in hints."""


@dataclass(frozen=True)
class Outputs:
    """What to answer beside the mask."""

    confidence: bool = False
    scores: bool = False
    at_network_size: bool = False
    """Mask and confidence at the network's input size instead of the frame's."""
    on_device: bool = False
    """GPU backends: mask and confidence stay in the GPU's memory, and speak DLPack and __cuda_array_interface__."""

    def placed(self, placement: Placement) -> Placement:
        """Where answers lie: on the source frame, or on the network's canvas."""
        return placement.whole_canvas() if self.at_network_size else placement


@dataclass(frozen=True)
class StepTimes:
    """Milliseconds of one frame's steps; None for a step that there is not."""

    pre_ms: float
    network_ms: float
    post_ms: float
    upload_ms: float | None = None
    download_ms: float | None = None


@dataclass(frozen=True)
class Decoded:
    """What a backend made of one frame; every array belongs to the caller. People get it as `segpipe.Result`."""

    mask: NDArray[Any]
    confidence: NDArray[Any] | None = None
    """HxW float32: the winning class's softmax probability (or the sigmoid's) of the blended scores."""
    scores: NDArray[Any] | None = None
    """CxHxW float32 at the network's stride, as the network gave them."""
