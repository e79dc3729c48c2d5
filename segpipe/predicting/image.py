"""One image: its bytes to its mask, and which errors are about it alone. `predict` and `batch` both ask here."""

import errno
from pathlib import Path
from typing import Any, NamedTuple, cast

from numpy.typing import NDArray

from segpipe.errors import InputError, SegpipeError, StorageError
from segpipe.instances import Instances
from segpipe.media.images import decode_image
from segpipe.media.pictures import require_kind
from segpipe.predicting.job import AnySegmenter, Job
from segpipe.result import Result
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.request import Outputs

_OF_ONE_FILE = frozenset({errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR})
"""What the system refuses one file for; a full disk refuses the next one too."""


class Segmented(NamedTuple):
    """A frame with its answers."""

    frame: NDArray[Any]
    mask: Any
    """Or the things that were found."""
    confidence: NDArray[Any] | None


def segment(segmenter: AnySegmenter, path: Path, content: bytes, job: Job) -> Segmented:
    """The mask or things of an image file's bytes; an InputError where they are none that the network takes."""
    frame = decode_image(path, content, job.max_pixels)
    require_kind(str(path), frame, segmenter.contract)
    if isinstance(segmenter, InstanceSegmenter) or not job.confidence:
        return Segmented(frame, job.mask(segmenter, frame), None)
    if job.is_tiled(segmenter, *frame.shape[:2]):
        raise InputError(
            f"{path} is cut into tiles, which have no confidence", hint="ask for masks alone, or cut it up"
        )
    result = segmenter.detail(frame, Outputs(confidence=True))
    return Segmented(frame, result.mask, result.confidence)


def shown(segmenter: AnySegmenter, answer: Any) -> Result | Instances:
    """A mask, or things, with what people do with them."""
    if isinstance(segmenter, InstanceSegmenter):
        return cast(Instances, answer)
    return Result(answer, segmenter.contract, segmenter.palette)


def mask_of(answer: Any) -> NDArray[Any]:
    """What goes into `masks/`. Of things that is their id map."""
    return answer.panoptic() if isinstance(answer, Instances) else answer


def concerns_one(error: SegpipeError) -> bool:
    """Whether the next file may go better."""
    if isinstance(error, StorageError):
        return getattr(error.__cause__, "errno", None) in _OF_ONE_FILE
    return isinstance(error, InputError)
