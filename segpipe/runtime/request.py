"""What is asked of a backend and what it answers: the types on the seam between Segmenter and backends."""

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray


@dataclass(frozen=True)
class OpenOptions:
    """How to open a backend. Each backend reads what concerns it."""

    device: int = 0
    threads: int = 0
    """Threads of ONNX Runtime on the CPU; 0 takes one a core."""
    cuda: Literal["auto", "pycuda", "cuda-python"] = "auto"


@dataclass(frozen=True)
class Outputs:
    """What to answer beside the mask."""

    confidence: bool = False
    scores: bool = False
    at_network_size: bool = False
    """Mask and confidence at the network's input size instead of the frame's."""


@dataclass(frozen=True)
class Result:
    """One frame's answer; every array belongs to the caller."""

    mask: NDArray[Any]
    confidence: NDArray[Any] | None = None
    """HxW float32: the winning class's softmax probability (or the sigmoid's) of the blended scores."""
    scores: NDArray[Any] | None = None
    """CxHxW float32 at the network's stride, as the network gave them."""
