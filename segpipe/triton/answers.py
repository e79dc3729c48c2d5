"""What the server's requests are answered with: those that meet make one call, and a bad frame fails alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import SegpipeError
from segpipe.runtime.segmenter import Segmenter

Answer = NDArray[Any] | SegpipeError


def masks_of(segmenter: Segmenter, batches: Sequence[NDArray[Any]]) -> list[Answer]:
    """For each request's frames, NxHxWxC, its masks NxHxW or the error that is its own."""
    frames = [frame for batch in batches for frame in batch]
    try:
        masks = iter(segmenter(frames))
    except SegpipeError as error:
        return [error] if len(batches) == 1 else [masks_of(segmenter, [batch])[0] for batch in batches]
    return [np.stack([next(masks) for _ in batch]) for batch in batches]
