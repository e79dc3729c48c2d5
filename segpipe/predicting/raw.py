"""Raw streams: packed frames in, packed masks out."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.media.images import require_pixels
from segpipe.predicting.job import Job
from segpipe.runtime.segmenter import Segmenter


def raw_frames(source: BinaryIO, contract: Contract, size: tuple[int, int]) -> Iterator[NDArray[Any]]:
    """Packed HxWxC frames of the contract's type, one after the other."""
    shape, dtype = (*size, contract.channels), np.dtype(contract.dtype)
    wanted = int(np.prod(shape)) * dtype.itemsize
    number = 0
    while data := source.read(wanted):
        if len(data) != wanted:
            raise InputError(
                f"the stream ended inside frame {number}: {len(data)} of {wanted} bytes",
                hint=f"send {dtype} frames of {'x'.join(map(str, shape))}, or give another --size",
            )
        yield np.frombuffer(data, dtype).reshape(shape)
        number += 1


def predict_raw(
    segmenter: Segmenter,
    source: BinaryIO,
    target: BinaryIO,
    size: tuple[int, int],
    *,
    job: Job,
    tick: Callable[[int], None],
) -> None:
    """Raw frames to raw masks of the contract's mask type, flushed one by one."""
    require_pixels("--size", *size, job.max_pixels)
    for mask in job.masks(segmenter, raw_frames(source, segmenter.contract, size), size):
        target.write(mask.tobytes())
        target.flush()
        tick(1)
