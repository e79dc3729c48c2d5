"""COCO's JSON: what it paints, and what is wrong with a file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segpipe.errors import DataError
from segpipe.id_maps import Crop, things_in
from segpipe.instances import crop_rle
from stages.data.coco import CocoSet, lengths_in, read_coco

CLASSES = ("ground", "cat", "dog")
SIZE = (8, 10)


def content() -> dict[str, Any]:
    """A cat by a polygon, a dog by run lengths, a crowd of dogs; categories with a gap, and one that is no class."""
    dog = np.zeros(SIZE, np.bool_)
    dog[5:7, 6:9] = True
    crowd = np.zeros(SIZE, np.bool_)
    crowd[0:2, 8:10] = True
    lengths = np.diff(np.flatnonzero(np.diff(crowd.T.reshape(-1), prepend=False)), prepend=0)
    rest = SIZE[0] * SIZE[1] - int(lengths.sum())
    return {
        "info": {"year": 2026},
        "images": [{"id": 7, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "dog"}, {"id": 90, "name": "cat"}, {"id": 91, "name": "tree"}],
        "annotations": [
            annotation(1, 90, [[1, 1, 5, 1, 5, 4, 1, 4]], [1, 1, 4, 3]),
            annotation(2, 3, crop_rle(Crop(dog, 0, 0), SIZE), [6, 5, 3, 2]),
            annotation(3, 3, {"size": [*SIZE], "counts": [*lengths.tolist(), rest]}, [8, 0, 2, 2], iscrowd=1),
            annotation(4, 91, [[0, 0, 3, 0, 3, 3]], [0, 0, 3, 3]),
        ],
    }


def annotation(number: int, category: int, segmentation: Any, box: list[float], **more: Any) -> dict[str, Any]:
    found = {"id": number, "image_id": 7, "category_id": category, "segmentation": segmentation, "bbox": box}
    return {**found, "iscrowd": 0, "area": 1.0, **more}


def read(folder: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> CocoSet:
    written = content()
    change(written)
    path = folder / "things.json"
    path.write_text(json.dumps(written))
    return read_coco(path, CLASSES)


def test_polygons_run_lengths_and_crowds_become_an_id_map(tmp_path: Path) -> None:
    coco = read(tmp_path)
    ids = coco.id_map(coco.file.images[0])

    assert {thing.code: thing.box for thing in things_in(ids)} == {1001: (1, 1, 5, 4), 2001: (6, 5, 9, 7)}
    assert (ids[0:2, 8:10] == 2000).all()
    assert (ids == 0).sum() == 80 - 12 - 6 - 4
    assert [*coco.faults()] == []


def test_a_later_thing_lies_over_an_earlier_one(tmp_path: Path) -> None:
    over = annotation(9, 3, [[1, 1, 3, 1, 3, 4, 1, 4]], [1, 1, 2, 3])
    coco = read(tmp_path, lambda found: found["annotations"].append(over))
    ids = coco.id_map(coco.file.images[0])

    assert (ids[1:4, 1:3] == 2002).all()
    assert (ids[1:4, 3:5] == 1001).all()


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_cocos_text_of_run_lengths_comes_back(seed: int, height: int, width: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.5
    lengths = lengths_in(crop_rle(Crop(mask, 0, 0), (height, width))["counts"])

    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    assert (mask == np.pad(values, (0, height * width - len(values))).reshape(width, height).T).all()


def second_image(found: dict[str, Any]) -> None:
    found["images"].append(found["images"][0])


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "an image twice": (second_image, "2 entries are image 7"),
    "a box outside": (lambda f: f["annotations"][0].update(bbox=[6, 1, 8, 3]), "has a box outside a.png"),
    "a box without area": (lambda f: f["annotations"][0].update(bbox=[1, 1, 0, 3]), "has a box of 0x3"),
    "no polygon": (lambda f: f["annotations"][0].update(segmentation=[]), "annotation 1 of a.png has no pixel"),
    "half a polygon": (lambda f: f["annotations"][0].update(segmentation=[[1, 1, 2, 2]]), "polygon of 4 numbers"),
    "an unknown image": (lambda f: f["annotations"][0].update(image_id=8), "of image 8, which the file does not list"),
    "an unknown category": (lambda f: f["annotations"][0].update(category_id=5), "of category 5, which"),
    "an annotation twice": (lambda f: f["annotations"][1].update(id=1), "2 entries are annotation 1"),
    "a class without category": (lambda f: f["categories"].pop(1), "no category 'cat'"),
    "runs of another size": (
        lambda f: f["annotations"][1].update(segmentation={"size": [8, 9], "counts": [72]}),
        "run lengths of 72 pixels",
    ),
    "negative runs": (
        lambda f: f["annotations"][1].update(segmentation={"size": [8, 10], "counts": [-5, 85]}),
        "run lengths of 80 pixels",
    ),
    "no run lengths": (
        lambda f: f["annotations"][1].update(segmentation={"size": [8, 10], "counts": "\u00e9"}),
        "a text of run lengths holds",
    ),
    "an image of no size": (lambda f: f["images"][0].update(height=0), "0x10 pixels"),
    "an image of all memory": (lambda f: f["images"][0].update(height=10**6, width=10**6), "1000000x1000000"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=[*FAULTS])
def test_each_fault_of_a_file_is_told(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    faults = [*read(tmp_path, change).faults()]

    assert any(message in fault.message for fault in faults), faults
    assert all(fault.hint for fault in faults)


def test_corners_far_outside_paint_no_more_than_the_frame(tmp_path: Path) -> None:
    huge = [[-1e30, -1e30, 1e30, -1e30, 1e30, 1e30, -1e30, 1e30]]
    coco = read(tmp_path, lambda found: found["annotations"][0].update(segmentation=huge))

    assert coco.id_map(coco.file.images[0]).shape == SIZE


def test_a_file_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "things.json"
    path.write_bytes(b"[" * (2 << 20))

    with pytest.raises(DataError, match="more than 1 MiB"):
        read_coco(path, CLASSES, limit_bytes=1 << 20)


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', '{"images": [], "categories": [{"id": "x"}]}'])
def test_what_is_no_coco_file_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "things.json"
    path.write_text(text)

    with pytest.raises(DataError, match=r"things\.json is not"):
        read_coco(path, CLASSES)


def test_more_things_of_a_class_than_an_id_map_counts_are_refused(tmp_path: Path) -> None:
    ring = [[1, 1, 5, 1, 5, 4, 1, 4]]
    many = [annotation(100 + number, 90, ring, [1, 1, 4, 3]) for number in range(1000)]
    coco = read(tmp_path, lambda found: found["annotations"].extend(many))

    with pytest.raises(DataError, match="more than 999 things of 'cat'"):
        coco.id_map(coco.file.images[0])
