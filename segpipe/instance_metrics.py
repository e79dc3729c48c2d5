"""How good found things are: average precision by faster-coco-eval, panoptic quality by counting. No torch.

A meter keeps what it saw as plain lists, so that several processes can put theirs together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract
from segpipe.errors import BackendMissingError
from segpipe.id_maps import IDS_A_CLASS, UNLABELLED, is_thing, things_in, tight
from segpipe.instances import Instances, crop_rle
from segpipe.metrics import scores

_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""COCO's first six figures."""
_MATCHED = 0.5  # of two segments of a partition only one can overlap another by more

Entry = dict[str, Any]


@dataclass(frozen=True)
class InstanceFigures:
    """What was measured. A figure that nothing could be measured of is NaN."""

    frames: int
    masks: dict[str, float]
    """`ap`, `ap50`, `ap75`, `ap_small`, `ap_medium`, `ap_large`; empty for networks without masks."""
    boxes: dict[str, float]
    """The same of boxes."""
    panoptic: dict[str, float]
    """`pq`, `sq` and `rq`, means over the classes; empty for networks without masks."""
    pixels: dict[str, float]
    """`miou` of the class that the id map gives each pixel; empty for networks without masks."""
    columns: ClassVar[list[str]] = ["of", "figure", "value"]
    """Of `rows`."""

    def summary(self) -> str:
        """One line."""
        return self.mean()

    def mean(self) -> str:
        """For a person."""
        told = {
            "mask AP": self.masks.get("ap"),
            "box AP": self.boxes["ap"],
            "PQ": self.panoptic.get("pq"),
            "mIoU": self.pixels.get("miou"),
        }
        return ", ".join(f"{name} {_text(value)}" for name, value in told.items() if value is not None)

    def rows(self) -> list[list[str]]:
        """A table: what is measured, its name, its value."""
        return [
            [group, name, _text(value)] for group, values in self.groups().items() for name, value in values.items()
        ]

    def groups(self) -> dict[str, dict[str, float]]:
        """Every figure, by what it is of."""
        return {"masks": self.masks, "boxes": self.boxes, "panoptic": self.panoptic, "pixels": self.pixels}

    def as_dict(self) -> dict[str, Any]:
        """For --json; NaN becomes null."""
        named = {
            group: {name: None if math.isnan(value) else round(value, 6) for name, value in values.items()}
            for group, values in self.groups().items()
            if values
        }
        return {"frames": self.frames, **named}


class InstanceMeter:
    """Things of frames beside id maps."""

    def __init__(self, contract: InstanceContract) -> None:
        self._contract = contract
        self.seen: list[Entry] = []
        """One entry a frame."""

    def add(self, truth: NDArray[Any], answer: Instances) -> None:
        """One frame: an HxW id map and what was found."""
        found = answer.coco()
        has_masks = self._contract.masks != "none"
        self.seen.append(
            {
                "size": [*answer.size],
                "true": [*_things(truth, self._contract), *_crowds(truth, self._contract)],
                "found": found,
                "unlabelled": _unlabelled(truth) if has_masks else None,
                "panoptic": _overlaps(truth, answer.panoptic()) if has_masks else [],
            }
        )

    def figures(self) -> InstanceFigures:
        """Of all frames."""
        has_masks = self._contract.masks != "none"
        return InstanceFigures(
            frames=len(self.seen),
            masks=_precision(self.seen, self._contract.things, "segm") if has_masks else {},
            boxes=_precision(self.seen, self._contract.things, "bbox"),
            panoptic=_quality(self.seen, self._contract) if has_masks else {},
            pixels=_pixels(self.seen, self._contract) if has_masks else {},
        )


def panoptic_quality(truth: NDArray[Any], answer: Instances) -> float:
    """Of one frame with masks; NaN where nothing is labelled."""
    seen = {"panoptic": _overlaps(truth, answer.panoptic())}
    return _quality([seen], answer.contract)["pq"]


def _things(truth: NDArray[Any], contract: InstanceContract) -> list[Entry]:
    """The things of an id map, as COCO has them."""
    numbers = {number: place + 1 for place, number in enumerate(contract.thing_numbers)}
    entries = []
    for thing in things_in(truth):
        if thing.label in numbers:
            left, top, right, bottom = thing.box
            size = (int(truth.shape[0]), int(truth.shape[1]))
            box = [left, top, right - left, bottom - top]
            entries.append(_entry(numbers[thing.label], crop_rle(thing.crop, size), thing.crop.area, box, 0))
    return entries


def _crowds(truth: NDArray[Any], contract: InstanceContract) -> list[Entry]:
    """Pixels of a thing's class that belong to no thing: what is found there counts neither for nor against."""
    entries = []
    for place, number in enumerate(contract.thing_numbers):
        crop = tight(truth == number * IDS_A_CLASS)
        if crop.mask.size:
            (height, width), size = crop.mask.shape, (int(truth.shape[0]), int(truth.shape[1]))
            box = [crop.left, crop.top, width, height]
            entries.append(_entry(place + 1, crop_rle(crop, size), crop.area, box, 1))
    return entries


def _unlabelled(truth: NDArray[Any]) -> Entry | None:
    """The same of what nobody labelled, for masks: its box would cover everything."""
    crop = tight(truth == UNLABELLED)
    size = (int(truth.shape[0]), int(truth.shape[1]))
    return _entry(0, crop_rle(crop, size), crop.area, [0, 0, 0, 0], 1) if crop.mask.size else None


def _entry(category: int, segmentation: Entry, area: int, box: list[int], crowd: int) -> Entry:
    return {"category_id": category, "segmentation": segmentation, "area": area, "bbox": box, "iscrowd": crowd}


def require_counting() -> tuple[Any, Any]:
    """The library that counts average precision, or how to get it."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise BackendMissingError(
            f"faster-coco-eval cannot be imported: {error}", hint="pip install 'segpipe[instances]'"
        ) from error
    return COCO, COCOeval_faster


def _precision(seen: Sequence[Entry], things: Sequence[str], kind: Literal["segm", "bbox"]) -> dict[str, float]:
    """Average precision as COCO counts it."""
    coco, evaluation = require_counting()
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(things)]
    images = [
        {"id": number + 1, "height": frame["size"][0], "width": frame["size"][1]} for number, frame in enumerate(seen)
    ]
    true: list[Entry] = []
    found: list[Entry] = []
    for image, frame in enumerate(seen, 1):
        own = [*frame["true"]]
        if kind == "segm" and frame["unlabelled"]:
            own += [frame["unlabelled"] | {"category_id": category["id"]} for category in categories]
        true += [entry | {"image_id": image, "id": len(true) + number} for number, entry in enumerate(own, 1)]
        dropped = "bbox" if kind == "segm" else "segmentation"
        for entry in frame["found"]:
            found.append({key: value for key, value in entry.items() if key != dropped} | {"image_id": image})
    known = coco({"info": {}, "images": images, "categories": categories, "annotations": true})
    counted = evaluation(known, known.loadRes(found), iouType=kind, print_function=_silent, rle_iou_max_workers=1)
    counted.evaluate()
    counted.accumulate()
    counted.summarize()
    return {
        name: float("nan") if value < 0 else float(value)
        for name, value in zip(_NAMES, counted.stats[: len(_NAMES)], strict=True)
    }


def _silent(*_: Any) -> None:
    """The library tells its progress."""


def _overlaps(truth: NDArray[Any], found: NDArray[Any]) -> list[list[int]]:
    """Each pair of numbers that lie on one pixel, and on how many."""
    pairs, counts = np.unique(truth.astype(np.int64) * (UNLABELLED + 1) + found, return_counts=True)
    true, own = np.divmod(pairs, UNLABELLED + 1)
    return np.stack([true, own, counts], 1).tolist()


def _quality(seen: Sequence[Entry], contract: InstanceContract) -> dict[str, float]:
    """Panoptic quality: the mean over the classes that occur, of how many segments fit and how well."""
    things = {*contract.thing_numbers}
    classes = range(len(contract.classes))
    hits, overlap = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0.0)
    missed, extra = dict.fromkeys(classes, 0), dict.fromkeys(classes, 0)
    for frame in seen:
        _count(frame["panoptic"], things, (hits, overlap, missed, extra))
    rows = [
        (overlap[c] / max(hits[c], 1), hits[c] / (hits[c] + (missed[c] + extra[c]) / 2))
        for c in classes
        if hits[c] + missed[c] + extra[c]
    ]
    if not rows:
        return dict.fromkeys(("pq", "sq", "rq"), float("nan"))
    quality = [sq * rq for sq, rq in rows]
    means = (np.mean(quality), np.mean([sq for sq, _ in rows]), np.mean([rq for _, rq in rows]))
    return {name: float(value) for name, value in zip(("pq", "sq", "rq"), means, strict=True)}


def _pixels(seen: Sequence[Entry], contract: InstanceContract) -> dict[str, float]:
    """Mean IoU over all frames' pixels, whichever thing they belong to."""
    classes = len(contract.classes)
    matrix = np.zeros((classes, classes + 1), np.int64)
    for frame in seen:
        for true, own, count in frame["panoptic"]:
            if true != UNLABELLED:
                matrix[true // IDS_A_CLASS, min(own // IDS_A_CLASS, classes)] += count
    return {"miou": scores(matrix).mean_iou}


def _count(pairs: Sequence[Sequence[int]], things: set[int], sums: Any) -> None:
    """One frame's matches. Where nobody labelled, or a crowd is, nothing counts against what was found."""
    hits, overlap, missed, extra = sums
    true_areas: dict[int, int] = {}
    own_areas: dict[int, int] = {}
    nobodys: dict[int, int] = {}
    for true, own, count in pairs:
        true_areas[true] = true_areas.get(true, 0) + count
        own_areas[own] = own_areas.get(own, 0) + count
        if not _is_segment(true, things):
            nobodys[own] = nobodys.get(own, 0) + count
    matched: set[int] = set()
    fitting: set[int] = set()
    for true, own, count in pairs:
        same = true // IDS_A_CLASS == own // IDS_A_CLASS
        if not (same and _is_segment(true, things) and _is_segment(own, things)):
            continue
        share = count / (true_areas[true] + own_areas[own] - nobodys.get(own, 0) - count)
        if share > _MATCHED:
            hits[true // IDS_A_CLASS] += 1
            overlap[true // IDS_A_CLASS] += share
            matched.add(true)
            fitting.add(own)
    for code in true_areas.keys() - matched:
        if _is_segment(code, things):
            missed[code // IDS_A_CLASS] += 1
    for code in own_areas.keys() - fitting:
        if _is_segment(code, things) and nobodys.get(code, 0) <= _MATCHED * own_areas[code]:
            extra[code // IDS_A_CLASS] += 1


def _is_segment(code: int, things: set[int]) -> bool:
    """A thing, or a surface: a thing's class without a thing is neither."""
    if code == UNLABELLED:
        return False
    return is_thing(code) if code // IDS_A_CLASS in things else code % IDS_A_CLASS == 0


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
