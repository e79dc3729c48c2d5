"""Result: one frame's mask with what its numbers mean, and what people do with it."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.installed import supervision
from segpipe.regions import Polygon, boxes_of, compressed, count_pixels, polygons_of, run_lengths
from segpipe.runtime.confidence import probabilities
from segpipe.runtime.frames import Order, in_order, pixel_limit, pixels_of

if TYPE_CHECKING:
    from segpipe.runtime.frames import Frame

_NAMED = 6  # classes in the one line that stands for a result
_SHOWN_PX, _LEGEND_PX = 1024, 240  # the longest side of a notebook's picture, and the least width of its legend


class Area(NamedTuple):
    """How much of the frame a class covers."""

    pixels: int
    share: float
    """Of all pixels, also of those that are no class."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """One frame's mask, and what else was asked for. Every array belongs to whoever holds the result.

    What is told by class has an entry for every class of the contract, in its order, also for one that is not there.
    """

    mask: Any
    """HxW of class numbers: uint8, or uint16 where the classes need it. With `Outputs(on_device=True)` it stays in the
    GPU's memory; the methods copy it to the host once."""
    contract: Contract
    palette: draw.Palette
    """A colour (red, green, blue) for each class."""
    confidence: Any = None
    """HxW float32: the probability of each pixel's class."""
    scores: NDArray[np.float32] | None = None
    """CxHxW at the network's stride, as the network gave them."""
    order: Order = "rgb"
    """Channel order of frames handed to `overlay` as arrays, and of the pictures that come back."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by number: `result.classes[3]` is what 3 in the mask stands for."""
        return self.contract.classes

    def areas(self) -> dict[str, Area]:
        """Pixels and share of the frame, by class."""
        size = self._mask.size
        return {name: Area(n, n / size) for name, n in zip(self.classes, self._counts(), strict=True)}

    def overlay(self, frame: "Frame", alpha: float = 0.5) -> draw.Image:
        """The classes' colours over the frame, HxWx3 uint8.

        Args:
            frame: The frame that the mask was made of, in any form that a `Segmenter` takes on the host.
            alpha: 0 shows the frame alone, 1 the colours alone.
        """
        if not _is_share(alpha):
            raise InputError(f"alpha is {alpha!r}", hint="give a number from 0 to 1")
        hint = "pass the frame that the mask was made of, and ask without at_network_size"
        pixels = pixels_of(frame, self.contract, self.order, pixel_limit(self._mask.size, hint))
        if pixels.shape[:2] != self._mask.shape:
            raise InputError(f"the frame is {_size(pixels)}, its mask {_size(self._mask)}", hint=hint)
        shown = draw.displayable(pixels, self.contract.value_range)
        return in_order(draw.overlay(shown, self._mask, self.palette, alpha), self.order)

    def colour(self) -> draw.Image:
        """The mask in its classes' colours, HxWx3 uint8; what is no class is grey."""
        return in_order(draw.colourise(self._mask, self.palette), self.order)

    def polygons(self) -> dict[str, list[Polygon]]:
        """Each class as polygons with holes, in pixels of the mask; `Polygon` says which points they go through."""
        return {
            name: polygons_of(self._mask == number) if count else []
            for number, (name, count) in enumerate(zip(self.classes, self._counts(), strict=True))
        }

    def rle(self) -> dict[str, dict[str, Any]]:
        """Each class as COCO's compressed run lengths, column by column: what `pycocotools.mask.decode` takes.

        `counts` is text, so that it goes into JSON as it is.
        """
        size = [*self._mask.shape]
        runs = run_lengths(self._mask, len(self.classes))
        return {name: {"size": size, "counts": compressed(own)} for name, own in zip(self.classes, runs, strict=True)}

    def probabilities(self) -> NDArray[np.float32]:
        """CxHxW at the mask's size: how likely each class is at each pixel. 4 bytes a pixel and class.

        Needs `detail(frame, Outputs(scores=True))`. Where the contract says `sigmoid` the classes are 1 - p and p.
        """
        if self.contract.output_kind == "labels":
            raise InputError("this network gives labels: no probabilities", hint="use the mask alone")
        if self.scores is None:
            raise InputError("this result holds no scores", hint="ask for detail(frame, Outputs(scores=True))")
        return probabilities(self.scores, self.contract, self.contract.place(*self._mask.shape))

    def to_supervision(self) -> Any:
        """`supervision.Detections`, one for each class in the frame: its mask, box, number, and `class_name` as data.

        Where the result holds confidence, a class has the mean of its pixels.
        """
        return supervision().Detections(**self._detections())

    def _detections(self) -> dict[str, Any]:
        """The arguments of `supervision.Detections`."""
        numbers = self._there()
        regions = np.zeros((len(numbers), *self._mask.shape), np.bool_)
        for number, region in zip(numbers, regions, strict=True):
            np.equal(self._mask, number, out=region)
        sure = None if self.confidence is None else _on_host(self.confidence)
        return {
            "xyxy": boxes_of(regions),
            "mask": regions,
            "class_id": np.array(numbers, np.int64),
            "confidence": None if sure is None else np.array([sure[region].mean() for region in regions], np.float32),
            "data": {"class_name": np.array([self.classes[number] for number in numbers], np.str_)},
        }

    def __repr__(self) -> str:
        counts = self._counts()
        there = sorted(np.flatnonzero(counts).tolist(), key=lambda number: -counts[number])
        named = [f"{self.classes[n]} {100 * counts[n] / self._mask.size:.1f} %" for n in there[:_NAMED]]
        named += [f"{len(there) - _NAMED} more"] if len(there) > _NAMED else []
        return f"Result({_size(self._mask)}: {', '.join(named) or 'no class'})"

    def _repr_png_(self) -> bytes:
        """What notebooks show: the colours, not wider or higher than 1024 pixels, over a legend of what is there."""
        from segpipe.media.images import encode_png  # pillow loads here

        step = -(-max(self._mask.shape) // _SHOWN_PX)
        seen = draw.colourise(self._mask[::step, ::step], self.palette)
        there = self._there()
        names, colours = [self.classes[n] for n in there], [self.palette[n] for n in there]
        legend = draw.legend(names, colours, max(seen.shape[1], _LEGEND_PX))
        room = ((0, 4), (0, legend.shape[1] - seen.shape[1]), (0, 0))
        return encode_png("result", np.concatenate([np.pad(seen, room, constant_values=255), legend]))

    def _counts(self) -> list[int]:
        """Pixels of each class. Counted anew each time: the mask belongs to whoever holds it, and may be written to."""
        return [int(count) for count in count_pixels(self._mask, len(self.classes))]

    def _there(self) -> list[int]:
        """Numbers of the classes that have pixels."""
        return [number for number, count in enumerate(self._counts()) if count]

    @cached_property
    def _mask(self) -> NDArray[Any]:
        mask = _on_host(self.mask)
        if mask.ndim != 2 or mask.dtype not in (np.uint8, np.uint16) or mask.size == 0:
            raise InputError(
                f"the mask is {mask.dtype} {mask.shape}, wanted is HxW of class numbers, uint8 or uint16",
                hint="pass mask.astype(numpy.uint8)",
            )
        return mask


def _is_share(number: Any) -> bool:
    return not isinstance(number, bool) and isinstance(number, Real) and 0 <= float(number) <= 1


def _on_host(array: Any) -> NDArray[Any]:
    """The array, or its copy where it lies in the GPU's memory."""
    if isinstance(array, np.ndarray):
        return array
    if not hasattr(array, "to_host"):
        raise InputError(f"a result's arrays are numpy's, got {type(array).__name__}", hint="pass numpy.asarray(it)")
    host: NDArray[Any] = array.to_host()
    return host


def _size(array: NDArray[Any]) -> str:
    return "x".join(map(str, array.shape[:2]))
