"""COCO's JSON of things: polygons, run lengths and crowds to id maps, and what is wrong with such a file.

Later things lie over earlier ones, as painters do: an id map tells each pixel once.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import DataError
from segpipe.id_maps import IDS_A_CLASS
from segpipe.rundir.storage import open_regular
from stages.data.faults import Fault

LIMIT_BYTES = 512 << 20
"""Of a file: parsed it takes ten times as much memory. COCO's own largest has 450 MB."""
_MOST_PIXELS = 1 << 28
_ANNOTATE = "write the file again with the tool that made it"


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Category(_Entry):
    """A class of things; its number may be any."""

    id: int
    name: str


class CocoImage(_Entry):
    """A frame of the set."""

    id: int
    file_name: str
    height: int
    width: int


class Runs(_Entry):
    """Run lengths, column by column: a list, or COCO's text for it."""

    size: tuple[int, int]
    counts: str | tuple[int, ...]


class Annotation(_Entry):
    """A thing, or a crowd of them."""

    id: int
    image_id: int
    category_id: int
    segmentation: tuple[tuple[float, ...], ...] | Runs = ()
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


class CocoFile(_Entry):
    """What such a file holds, as far as it is used."""

    images: tuple[CocoImage, ...]
    annotations: tuple[Annotation, ...] = ()
    categories: tuple[Category, ...]


_FORM = Form("COCO file", TypeAdapter(CocoFile), DataError)


@dataclass(frozen=True)
class CocoSet:
    """A file and the classes that its things become. `classes` are all of the network, surfaces among them."""

    file: CocoFile
    classes: tuple[str, ...]
    surface: int = 0
    """The class number of pixels without a thing."""

    @cached_property
    def by_image(self) -> Mapping[int, Sequence[Annotation]]:
        """The things of each image, in the file's order."""
        found: dict[int, list[Annotation]] = {image.id: [] for image in self.file.images}
        for annotation in self.file.annotations:
            found.setdefault(annotation.image_id, []).append(annotation)
        return found

    @cached_property
    def numbers(self) -> Mapping[int, int]:
        """Category to class number; categories that are no class are left out."""
        places = {name: number for number, name in enumerate(self.classes)}
        return {category.id: places[category.name] for category in self.file.categories if category.name in places}

    def id_map(self, image: CocoImage) -> NDArray[np.uint16]:
        """HxW; DataError where a thing cannot be painted, or there are too many of a class."""
        _require_size(image)
        ids = np.full((image.height, image.width), self.surface * IDS_A_CLASS, np.uint16)
        counts = Counter[int]()
        for annotation in self.by_image[image.id]:
            label = self.numbers.get(annotation.category_id)
            if label is None:
                continue
            if not annotation.iscrowd:
                counts[label] += 1
            number = 0 if annotation.iscrowd else counts[label]
            if number >= IDS_A_CLASS:
                raise DataError(
                    f"{image.file_name} has more than {IDS_A_CLASS - 1} things of '{self.classes[label]}'",
                    hint="cut the image up",
                )
            ids[painted(annotation, image)] = label * IDS_A_CLASS + number
        return ids

    def faults(self) -> Iterator[Fault]:
        """Everything that is wrong with the file, without opening an image."""
        yield from _twice("image", [image.id for image in self.file.images])
        yield from _twice("annotation", [annotation.id for annotation in self.file.annotations])
        yield from _twice("category", [category.id for category in self.file.categories])
        yield from self._class_faults()
        images = {image.id: image for image in self.file.images}
        categories = {category.id for category in self.file.categories}
        for annotation in self.file.annotations:
            name = f"annotation {annotation.id}"
            image = images.get(annotation.image_id)
            if image is None:
                message = f"{name} is of image {annotation.image_id}, which the file does not list"
                yield Fault(message, "remove it, or add the image", name)
            elif annotation.category_id not in categories:
                message = f"{name} is of category {annotation.category_id}, which the file does not list"
                yield Fault(message, "remove it, or add the category", name)
            else:
                yield from _faults_of(annotation, image)

    def _class_faults(self) -> Iterator[Fault]:
        named = {category.name for category in self.file.categories}
        for number, name in enumerate(self.classes):
            if name not in named and number != self.surface:
                hint = f"its categories are {', '.join(sorted(named)[:12])}"
                yield Fault(f"the file has no category '{name}'", hint, name)


def read_coco(path: Path, classes: tuple[str, ...], limit_bytes: int = LIMIT_BYTES) -> CocoSet:
    """A whole file; one that is too large is refused before it is parsed."""
    with open_regular(path) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise DataError(
            f"{path} has more than {limit_bytes >> 20} MiB, and parsed it takes ten times as much memory",
            hint="split it by images, and train on the parts as splits of their own",
        )
    return CocoSet(_FORM.read(data, str(path), _ANNOTATE), classes)


def painted(annotation: Annotation, image: CocoImage) -> NDArray[np.bool_]:
    """HxW mask of a thing."""
    if isinstance(annotation.segmentation, Runs):
        return _from_runs(annotation.segmentation, image, annotation.id)
    if not annotation.segmentation:
        return np.zeros((image.height, image.width), np.bool_)
    for ring in annotation.segmentation:
        if len(ring) < 6 or len(ring) % 2:
            raise DataError(
                f"annotation {annotation.id} has a polygon of {len(ring)} numbers",
                hint="wanted are x and y of 3 corners or more",
            )
    return _filled(annotation.segmentation, image)


def _filled(rings: Sequence[Sequence[float]], image: CocoImage) -> NDArray[np.bool_]:
    """Polygons as COCO fills them. Corners are kept near the frame: the library counts along every edge."""
    from faster_coco_eval.core import mask

    sides = np.array([image.width, image.height], np.float64)
    near = [np.array(ring).reshape(-1, 2).clip(-sides, 2 * sides).reshape(-1).tolist() for ring in rings]
    runs = mask.merge(mask.frPyObjects(near, image.height, image.width))
    return np.asarray(mask.decode(runs)).astype(np.bool_)


def _from_runs(runs: Runs, image: CocoImage, number: int) -> NDArray[np.bool_]:
    lengths = lengths_in(runs.counts) if isinstance(runs.counts, str) else [*runs.counts]
    pixels = image.height * image.width
    if runs.size != (image.height, image.width) or min(lengths, default=0) < 0 or sum(lengths) != pixels:
        raise DataError(
            f"annotation {number} has run lengths of {sum(lengths)} pixels for {runs.size}, "
            f"its image is {(image.height, image.width)}",
            hint=_ANNOTATE,
        )
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths).reshape(image.width, image.height).T


def lengths_in(text: str) -> list[int]:
    """The run lengths of COCO's text; DataError where it is none."""
    lengths: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise DataError(f"a text of run lengths holds {character!r}", hint=_ANNOTATE)
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise DataError("a text of run lengths breaks off", hint=_ANNOTATE)
    return lengths


def _faults_of(annotation: Annotation, image: CocoImage) -> Iterator[Fault]:
    """Of one thing: its box, and whether its mask can be painted and holds a pixel."""
    name = f"annotation {annotation.id}"
    left, top, width, height = annotation.bbox
    if width <= 0 or height <= 0:
        yield Fault(
            f"{name} of {image.file_name} has a box of {width:g}x{height:g}", "remove it, or mend its box", name
        )
    elif left < -1 or top < -1 or left + width > image.width + 1 or top + height > image.height + 1:
        yield Fault(
            f"{name} has a box outside {image.file_name}: {annotation.bbox}",
            "boxes are [left, top, width, height] in pixels: convert those of another form",
            name,
        )
    try:
        _require_size(image)
        if not painted(annotation, image).any():
            yield Fault(f"{name} of {image.file_name} has no pixel", "remove it: nothing can be learnt of it", name)
    except DataError as error:
        yield Fault.of(error, name)


def _require_size(image: CocoImage) -> None:
    if image.height < 1 or image.width < 1 or image.height * image.width > _MOST_PIXELS:
        raise DataError(f"{image.file_name} is said to have {image.height}x{image.width} pixels", hint=_ANNOTATE)


def _twice(what: str, numbers: Sequence[Any]) -> Iterator[Fault]:
    for number, count in Counter(numbers).items():
        if count > 1:
            yield Fault(f"{count} entries are {what} {number}", f"number every {what} of its own", f"{what} {number}")
