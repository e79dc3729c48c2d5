"""Frames of any size: overlapping tiles, their scores blended, memory bounded by the rows of tiles in flight."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.runtime.backends import Backend

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tiling:
    """How a huge frame is cut."""


def segment_tiled(
    backend: Backend, contract: Contract, frame: NDArray[Any], tiling: Tiling, progress: Progress | None
) -> NDArray[Any]:
    raise NotImplementedError
