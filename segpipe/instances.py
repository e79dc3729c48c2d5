"""Instances: the things of one frame, and what people do with them. Owns drawing, run lengths and the panoptic map."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.contract.schema import AnyContract, FrameContract, InstanceContract, Placement, SemanticContract
from segpipe.errors import InputError
from segpipe.id_maps import IDS_A_CLASS, UNLABELLED, Crop, classes_in
from segpipe.installed import supervision
from segpipe.regions import Polygon, compressed, polygons_of
from segpipe.runtime.frames import Order, in_order, pixel_limit, pixels_of
from segpipe.runtime.postprocess import postprocess

if TYPE_CHECKING:
    from segpipe.runtime.frames import Frame

SURE = 0.4
"""The score from which a thing is painted, and is part of the panoptic map."""
_SEEN = 0.5  # a thing of which the ones before it leave less than this share is no part of the panoptic map
_MOST = IDS_A_CLASS - 1


@dataclass(frozen=True, eq=False, repr=False)
class Instances:
    """Things by falling score. Every array belongs to whoever holds it."""

    boxes: NDArray[np.float32]
    """Nx4: left, top, right and bottom edge in pixels of the frame."""
    scores: NDArray[np.float32]
    """N, from 0 to 1."""
    labels: NDArray[np.int64]
    """N numbers in `contract.things`."""
    crops: tuple[Crop, ...]
    """Where each thing is: a mask as large as its box. None at all from networks that give boxes only."""
    contract: InstanceContract
    placement: Placement
    """Where the frame lay on the network's canvas."""
    exceeded: bool = False
    """Whether every row of the network was an answer: there may be more things than it has rows."""
    settled: bool = True
    """False where the network itself says that it ended too early: things may be missing, or be there twice."""
    semantic: NDArray[np.float32] | None = None
    """CxHxW scores of all classes at the network's stride, where the network gives them; of frames taken whole."""
    dense: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """What the rows were picked from, by name; empty unless scores were asked for."""
    classes: NDArray[np.uint8] | None = None
    """HxW class of each pixel, where it was put together from tiles."""
    palette: draw.Palette = ()
    """A colour for each class."""
    order: Order = "rgb"
    """Channel order of frames and pictures."""

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frame."""
        return self.placement.source

    @property
    def names(self) -> list[str]:
        """The class of each thing."""
        return [self.contract.things[label] for label in self.labels]

    def shown_with(self, palette: draw.Palette, order: Order) -> "Instances":
        """The same things with their colours, and the order of frames and pictures."""
        return replace(self, palette=palette, order=order)

    def above(self, score: float) -> "Instances":
        """Those of at least this score."""
        kept = np.flatnonzero(self.scores >= score)
        crops = tuple(self.crops[number] for number in kept) if self.crops else ()
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept], crops=crops)

    def mask(self, number: int) -> NDArray[np.bool_]:
        """One thing's mask at the frame's size."""
        crop = self._crops()[number]
        whole = np.zeros(self.size, np.bool_)
        whole[crop.region] = crop.mask
        return whole

    def polygons(self) -> list[list[Polygon]]:
        """The pieces of each thing, in pixels of the frame."""
        return [_moved(polygons_of(crop.mask), crop) if crop.mask.size else [] for crop in self._crops()]

    def rle(self) -> list[dict[str, Any]]:
        """Each thing as COCO's compressed run lengths."""
        return [crop_rle(crop, self.size) for crop in self._crops()]

    def coco(self, image_id: int | str = 0) -> list[dict[str, Any]]:
        """Entries of COCO's results; `category_id` is 1 for the first of `contract.things`."""
        shapes: list[Any] = self.rle() if self.crops else [None] * len(self)
        return [
            {
                "image_id": image_id,
                "category_id": int(label) + 1,
                "bbox": [round(float(v), 2) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                "score": round(float(score), 5),
                **({"segmentation": shape} if shape else {}),
            }
            for box, score, label, shape in zip(self.boxes, self.scores, self.labels, shapes, strict=True)
        ]

    def panoptic(self) -> NDArray[np.uint16]:
        """HxW id map: 1000 x class + thing, thing 0 for surfaces, 65535 where the network says nothing.

        Things are laid down by falling score; one that the others leave less than half of is left out.
        """
        ids = np.full(self.size, UNLABELLED, np.uint16)
        free = np.ones(self.size, np.bool_)
        if self.semantic is not None or self.classes is not None:
            ids[:] = self.class_map().astype(np.uint16) * IDS_A_CLASS
        numbers = [0] * len(self.contract.things)
        for score, label, crop in zip(self.scores, self.labels, self.crops, strict=bool(self.crops)):
            part = crop.mask & free[crop.region]
            if score < SURE or not part.any() or part.sum() < _SEEN * crop.area or numbers[label] == _MOST:
                continue
            numbers[label] += 1
            ids[crop.region][part] = self.contract.thing_numbers[label] * IDS_A_CLASS + numbers[label]
            free[crop.region][part] = False
        return ids

    def class_map(self) -> NDArray[Any]:
        """HxW class numbers by the semantic output alone."""
        if self.classes is not None:
            return self.classes.copy()
        if self.semantic is None:
            raise InputError("this network says no class for every pixel", hint="use boxes and crops")
        return postprocess(self.semantic, class_contract(self.contract), self.placement)

    def overlay(self, frame: "Frame", alpha: float = 0.5) -> draw.Image:
        """Masks, boxes, classes and scores over the frame, of things with a score of at least 0.4. HxWx3 uint8."""
        hint = "pass the frame that the things were found in"
        pixels = pixels_of(frame, self.contract, self.order, pixel_limit(self.size[0] * self.size[1], hint))
        if pixels.shape[:2] != self.size:
            raise InputError(f"the frame is {pixels.shape[:2]}, the things are of one of {self.size}", hint=hint)
        picture = draw.displayable(pixels, self.contract.value_range).copy()
        shown = self.above(SURE)
        for number in reversed(range(len(shown))):  # the surest on top
            shown._paint(picture, number, alpha)
        return in_order(picture, self.order)

    def colour(self) -> draw.Image:
        """The id map in its classes' colours, a line around each thing. HxWx3 uint8."""
        ids = self.panoptic()
        return in_order(draw.outlined(draw.colourise(classes_in(ids), self.palette), ids), self.order)

    def to_supervision(self) -> Any:
        """`supervision.Detections`. Its masks are as large as the frame, one for each thing."""
        return supervision().Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            mask=np.stack([self.mask(number) for number in range(len(self))]) if self.crops else None,
            data={"class_name": np.array(self.names, np.str_)},
        )

    def __repr__(self) -> str:
        counts = {name: self.names.count(name) for name in dict.fromkeys(self.names)}
        told = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing"
        doubts = (", and maybe more" if self.exceeded else "") + ("" if self.settled else ", not settled")
        return f"Instances({self.size[0]}x{self.size[1]}: {told}{doubts})"

    def _crops(self) -> tuple[Crop, ...]:
        if len(self.crops) < len(self):
            raise InputError("this network gives boxes without masks", hint="use boxes")
        return self.crops

    def _paint(self, picture: draw.Image, number: int, alpha: float) -> None:
        label = int(self.labels[number])
        colour = tuple(self.palette[self.contract.thing_numbers[label]]) if self.palette else (228, 87, 86)
        if self.crops:
            crop = self.crops[number]
            part = picture[crop.region]
            part[crop.mask] = (part[crop.mask] * (1 - alpha) + np.array(colour) * alpha).astype(np.uint8)
        left, top, right, bottom = (round(float(value)) for value in self.boxes[number])
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), colour, 1)
        text = f"{self.contract.things[label]} {self.scores[number]:.2f}"
        cv2.putText(picture, text, (left + 2, max(top + 9, 9)), cv2.FONT_HERSHEY_SIMPLEX, 0.33, colour, 1, cv2.LINE_AA)


def coco_document(found: Instances, name: str) -> dict[str, Any]:
    """One image's things as COCO writes results, with what their numbers mean."""
    height, width = found.size
    return {
        "image": {"id": name, "file_name": name, "height": height, "width": width},
        "categories": [{"id": number, "name": thing} for number, thing in enumerate(found.contract.things, 1)],
        "annotations": found.coco(name),
        "there_may_be_more": found.exceeded,
        **({} if found.settled else {"settled": False}),
    }


def crop_rle(crop: Crop, size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of a crop in a frame of this size, without a mask of that size."""
    return {"size": [*size], "counts": compressed(_runs(crop, size))}


def _runs(crop: Crop, size: tuple[int, int]) -> NDArray[np.int64]:
    """Lengths of runs, columns one after another, that are not and are of the thing."""
    height, width = crop.mask.shape
    framed = np.zeros((width, height + 2), np.int8)
    framed[:, 1:-1] = crop.mask.T
    steps = np.diff(framed, axis=1)
    (columns, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    offset = (columns + crop.left) * size[0] + crop.top
    edges = np.stack([starts + offset, ends + offset], 1)
    if len(edges):  # a run that reaches the frame's end goes on at the next column's top
        apart = np.append(True, edges[1:, 0] != edges[:-1, 1])
        edges = np.stack([edges[apart, 0], edges[np.append(apart[1:], True), 1]], 1)
    counts = np.diff(edges.reshape(-1), prepend=0, append=size[0] * size[1])
    return counts[:-1] if counts[-1] == 0 else counts


def _moved(pieces: list[Polygon], crop: Crop) -> list[Polygon]:
    """From the crop's pixels to the frame's."""
    by = np.array([crop.left, crop.top], np.int32)
    return [Polygon(piece.outline + by, tuple(hole + by for hole in piece.holes)) for piece in pieces]


def class_contract(contract: AnyContract) -> SemanticContract:
    """What a network for things says of every pixel, as if it were all; a contract for masks is that already."""
    if isinstance(contract, SemanticContract):
        return contract
    frames = contract.model_dump(include={*FrameContract.model_fields})
    classes = contract.classes if len(contract.classes) > 1 else (*contract.classes, "no class")
    return SemanticContract(**frames, classes=classes, output_stride=contract.output_stride)
