"""One `predict` command: what is asked for, where each input's pictures go, and what they are made from."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from segpipe.media import MAX_MEGAPIXELS, RASTERS
from segpipe.predicting.done import Origin, Source
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.segmenter import Segmenter

AnySegmenter = Segmenter | InstanceSegmenter

MASKS, OVERLAYS, COLOURS, VIDEOS = "masks", "overlays", "colours", "videos"
"""Folders of what is written."""
THINGS = "things"
"""Of networks that tell things one by one: what was found, as COCO's JSON."""
CONFIDENCE = "confidence"
"""Of `batch` alone: how likely each pixel's class is, from 0 to 255."""
TIMES = "times"
"""Of a live source: when each frame was."""


class Advance(Protocol):
    """Called with the number of frames that are done; skipped: they were before."""

    def __call__(self, frames: int, /, *, skipped: bool = False) -> None: ...


@dataclass(frozen=True)
class Job:
    """What to write beside index masks, and how."""

    out: Path
    overlay: bool = True
    """For images in `overlays/`, for videos beside each frame in `videos/`."""
    colour: bool = False
    tiled: bool = False
    """Cut every frame into tiles; those over the segmenter's limit are in any case."""
    force: bool = False
    """Make again what is there."""
    max_pixels: int = MAX_MEGAPIXELS * 1_000_000
    """The largest frame that is decoded; about 6 bytes of memory a pixel, twice, as two are in work."""
    confidence: bool = False
    """Answer it beside the mask."""
    geotiff: bool = False
    """Read TIFFs by windows, of any size, and write their masks as GeoTIFF."""

    @property
    def pictures(self) -> tuple[str, ...]:
        """The folders that an image writes to; the mask's last, with which the image is done."""
        return (*[OVERLAYS] * self.overlay, *[COLOURS] * self.colour, MASKS)

    def written_for(self, segmenter: AnySegmenter) -> tuple[str, ...]:
        """The same with what a network for things adds."""
        return (THINGS, *self.pictures) if isinstance(segmenter, InstanceSegmenter) else self.pictures

    @property
    def rasters(self) -> frozenset[str]:
        """Suffixes of what is read by windows."""
        return RASTERS if self.geotiff else frozenset()

    def target(self, folder: str, source: Path) -> Path:
        """Where what is made of a source goes: a file for an image, for a video a folder or a video."""
        return self.out / folder / source.stem

    def mask(self, segmenter: AnySegmenter, frame: NDArray[Any]) -> Any:
        """The mask of one frame, or its things."""
        return segmenter.tiled(frame) if self.is_tiled(segmenter, *frame.shape[:2]) else segmenter(frame)

    def masks(self, segmenter: AnySegmenter, frames: Iterable[NDArray[Any]], size: tuple[int, int]) -> Iterator[Any]:
        """The same of frames of one size, in order."""
        if self.is_tiled(segmenter, *size):
            return map(segmenter.tiled, frames)
        return segmenter.stream(frames)

    def origin(self, segmenter: AnySegmenter, source: Source, folder: str) -> Origin:
        """What decides the pixels of what is written into a folder."""
        options: dict[str, Any] = {"picture": folder, "tiled": self.tiled, "whole_pixels": segmenter.max_pixels}
        if folder not in (MASKS, THINGS, CONFIDENCE):
            options["palette"] = [list(colour) for colour in segmenter.palette]
        made = segmenter.describe()
        return Origin(
            source, segmenter.artifact_sha256, segmenter.contract.sha256, made["backend"], made["device"], options
        )

    def is_tiled(self, segmenter: AnySegmenter, height: int, width: int) -> bool:
        """Whether a frame of this size is cut into tiles."""
        return self.tiled or height * width > segmenter.max_pixels


@dataclass(frozen=True)
class Live:
    """How to keep up with a source that does not wait."""

    drop_late: bool = False
    """Drop the oldest frame that waits where a new one has no place. Otherwise the source is made to wait."""
    reconnect_s: float = 0.0
    """How long to try again when it broke off; 0: not at all."""


@dataclass(frozen=True)
class Predicted:
    """What was written for one input; for a video `mask` is a folder and `overlay` a side-by-side video."""

    image: Path
    mask: Path
    overlay: Path
    frames: int = 1
    skipped: bool = False


def picture_name(frame: int) -> str:
    """Of a frame's picture."""
    return f"{frame:06d}.png"
