"""What POST /segment answers: the kinds that its Accept header chooses among, each made of a Result."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.instances import Instances, coco_document
from segpipe.media.images import encode_png
from segpipe.regions import Polygon, rings_beyond
from segpipe.result import Result
from segpipe.runtime.instance_segmenter import InstanceSegmenter

Make = Callable[[Any, NDArray[Any]], bytes]
"""From the result, or the things, and the frame that they were made of, to a body."""
_SHOW = "show"
_MOST_RINGS, _MOST_POINTS = 100_000, 1_000_000  # of polygons: half a second each, and 100 MB
_MOST_RUNS = 4_000_000  # a second and 200 MB
_MOST_ENTRIES = 64  # of Accept that are looked at; browsers send ten


@dataclass(frozen=True)
class Kind:
    """One form of an answer."""

    media_type: str
    show: str
    """Told apart by this parameter of the media type; empty for what the bare type means."""
    what: str
    make: Make

    @property
    def name(self) -> str:
        """As Accept asks for it: `image/png; show=overlay`."""
        return f"{self.media_type}; {_SHOW}={self.show}" if self.show else self.media_type


def chosen(accept: str, kinds: Sequence[Kind]) -> Kind | None:
    """The kind that is wanted most; None where nothing here is acceptable. Of equals the first one named."""
    entries = (accept or "*/*").split(",", _MOST_ENTRIES)[:_MOST_ENTRIES]
    wanted = sorted(map(_range, entries), key=lambda found: -found[0])
    found = (_matching(media_type, show, kinds) for q, media_type, show in wanted if q > 0)
    return next((kind for kind in found if kind), None)


def _range(text: str) -> tuple[float, str, str]:
    """One entry of Accept: how much it is wanted, its type, what it is to show."""
    media_type, *rest = (part.strip().lower() for part in text.split(";"))
    parameters = dict(part.partition("=")[::2] for part in rest)
    try:
        q = float(parameters.get("q", 1))
    except ValueError:
        q = 0.0
    return (q if 0 <= q <= 1 else 0.0), media_type, parameters.get(_SHOW, "").strip('"')


def _matching(media_type: str, show: str, kinds: Sequence[Kind]) -> Kind | None:
    """A star stands for anything; without `show` a type is the one of its kinds that shows nothing in particular."""
    for kind in kinds:
        ranges = (kind.media_type, f"{kind.media_type.partition('/')[0]}/*", "*/*")
        if kind.show == show and media_type in ranges:
            return kind
    return None


def _mask(result: Result, _: NDArray[Any]) -> bytes:
    return encode_png("the mask", result.mask)


def _ids(found: Instances, _: NDArray[Any]) -> bytes:
    return encode_png("the id map", found.panoptic())


def _things(found: Instances, _: NDArray[Any]) -> bytes:
    return json.dumps(coco_document(found, "picture"), ensure_ascii=False).encode()


def _colour(result: Result | Instances, _: NDArray[Any]) -> bytes:
    return encode_png("the colours", result.colour())


def _overlay(result: Result | Instances, frame: NDArray[Any]) -> bytes:
    return encode_png("the overlay", result.overlay(frame))


def _raw(result: Result, _: NDArray[Any]) -> bytes:
    little_endian: NDArray[Any] = result.mask.astype(result.mask.dtype.newbyteorder("<"), copy=False)
    return little_endian.tobytes()


def _shares(result: Result, _: NDArray[Any]) -> bytes:
    areas = result.areas()
    return _json(result, {name: {"pixels": area.pixels, "share": area.share} for name, area in areas.items()})


def _polygons(result: Result, _: NDArray[Any]) -> bytes:
    if rings := rings_beyond(result.mask, len(result.classes), _MOST_RINGS):
        raise _too_many("polygons", f"{rings} outlines and holes or more", _MOST_RINGS, "show=rle, or for the mask")
    found = result.polygons()
    points = sum(len(ring) for pieces in found.values() for piece in pieces for ring in (piece.outline, *piece.holes))
    if points > _MOST_POINTS:
        raise _too_many("polygons", f"outlines and holes of {points} points", _MOST_POINTS, "show=rle, or for the mask")
    return _json(result, {name: [*map(_points, pieces)] for name, pieces in found.items()})


def _too_many(kind: str, what: str, most: int, instead: str) -> InputError:
    message = f"this picture's {kind} would be {what}, at most {most} are made"
    return InputError(message, hint=f"ask for {instead}")


def _run_lengths(result: Result, _: NDArray[Any]) -> bytes:
    mask = result.mask
    runs = int(np.count_nonzero(mask[1:] != mask[:-1])) + mask.shape[1]
    if runs > _MOST_RUNS:
        raise _too_many("run lengths", f"{runs} or more", _MOST_RUNS, "the mask")
    return _json(result, result.rle())


def _points(polygon: Polygon) -> dict[str, Any]:
    return {"outline": polygon.outline.tolist(), "holes": [hole.tolist() for hole in polygon.holes]}


def _json(result: Result, by_class: dict[str, Any]) -> bytes:
    """Every class has its entry, in the contract's order, so its place is its number in the mask."""
    height, width = np.shape(result.mask)
    return json.dumps({"height": height, "width": width, "classes": by_class}, ensure_ascii=False).encode()


KINDS = (
    Kind("image/png", "", "the mask, a PNG of class numbers", _mask),
    Kind("image/png", "colour", "the mask in the colours of its classes", _colour),
    Kind("image/png", "overlay", "the colours over the picture", _overlay),
    Kind("application/json", "", "pixels and share of each class", _shares),
    Kind("application/json", "polygons", "each class as polygons with holes", _polygons),
    Kind("application/json", "rle", "each class as COCO's run lengths", _run_lengths),
    Kind("application/octet-stream", "", "the mask's bytes, row by row, as x-segpipe-mask says", _raw),
)
"""In the order in which `*/*` and the like choose."""
KINDS_OF_THINGS = (
    Kind("application/json", "", "boxes, scores, classes and run lengths, as COCO writes results", _things),
    Kind("image/png", "", "the id map, a PNG of 16 bits: 1000 x class + thing", _ids),
    Kind("image/png", "colour", "the id map in the colours of its classes", _colour),
    Kind("image/png", "overlay", "masks, boxes, classes and scores over the picture", _overlay),
)
"""The same of networks that tell things one by one."""
KINDS_OF_BOXES = tuple(kind for kind in KINDS_OF_THINGS if kind.make not in {_ids, _colour})
"""Of those that say nothing of any pixel."""


def kinds_of(segmenter: object) -> tuple[Kind, ...]:
    """What can be asked of a segmenter."""
    if not isinstance(segmenter, InstanceSegmenter):
        return KINDS
    says_pixels = segmenter.contract.masks != "none" or segmenter.contract.semantic_name
    return KINDS_OF_THINGS if says_pixels else KINDS_OF_BOXES
