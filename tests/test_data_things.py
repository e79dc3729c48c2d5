"""Sets whose labels tell things one by one, from files of each kind to id maps, and what `data check` finds in them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segpipe.errors import DataError
from segpipe.id_maps import UNLABELLED, things_in
from segpipe.media.images import write_image
from stages.config.draft import draft_contract
from stages.config.file import load_config
from stages.config.root import Config
from stages.data import fingerprint, open_split
from stages.data.check import all_faults, check
from tests.calling import call
from tests.test_data_coco import content

SIZE = (8, 10)
REST = """
[input]
height = 32
width = 32

[task]
kind = "instances"
"""
FOLDER = '[data]\nkind = "folder"\nroot = "data"\nmasks_are = "ids"\nclasses = ["ground", "cat", "dog"]\n'
COCO = (
    '[data]\nkind = "coco"\nroot = "data"\nimages = "{split}"\nannotations = "{split}.json"\n'
    'classes = ["ground", "cat", "dog"]\n'
)


def ids() -> NDArray[np.uint16]:
    """Two cats, a dog, ground, and a pixel that nobody labelled."""
    found = np.zeros(SIZE, np.uint16)
    found[1:3, 1:4], found[4:6, 1:4], found[1:5, 6:9] = 1001, 1002, 2001
    found[7, 9] = UNLABELLED
    return found


def png(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def frame(path: Path) -> None:
    write_image(path, np.full((*SIZE, 3), 90, np.uint8))


def folder_set(run: Path, name: str = "a") -> None:
    for split in ("train", "val"):
        frame(run / "data" / split / "images" / f"{name}.png")
        png(run / "data" / split / "masks" / f"{name}.png", ids())


def coco_set(run: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    for split in ("train", "val"):
        frame(run / "data" / split / "a.png")
        written = content()
        change(written)
        (run / "data" / f"{split}.json").write_text(json.dumps(written))


def config_of(run: Path, data: str) -> Config:
    (run / "segpipe.toml").write_text(data + REST)
    return load_config(run)


def codes(config: Config, run: Path) -> list[int]:
    split = open_split(config, run, "train")
    return [thing.code for thing in things_in(split.sample(0)[1])]


def test_a_folder_of_id_maps_is_read_as_it_is(tmp_path: Path) -> None:
    folder_set(tmp_path)
    config = config_of(tmp_path, FOLDER)

    assert (open_split(config, tmp_path, "train").sample(0)[1] == ids()).all()
    assert draft_contract(config).model_dump()["things"] == ("cat", "dog")
    assert not all_faults(check(config, tmp_path))


def test_an_id_of_no_class_is_a_fault_that_names_the_file(tmp_path: Path) -> None:
    folder_set(tmp_path)
    png(tmp_path / "data" / "val" / "masks" / "a.png", np.full(SIZE, 7001, np.uint16))

    messages = [fault.message for fault in all_faults(check(config_of(tmp_path, FOLDER), tmp_path))]

    assert any("val/masks/a.png holds 7001, which is class 7 of 3" in message for message in messages)


def test_coco_is_read_by_split_and_a_changed_file_is_another_set(tmp_path: Path) -> None:
    coco_set(tmp_path)
    config = config_of(tmp_path, COCO)
    before = fingerprint(config, tmp_path, None)

    assert codes(config, tmp_path) == [1001, 2001]
    assert not all_faults(check(config, tmp_path))
    coco_set(tmp_path, lambda written: written["annotations"].pop(0))
    assert codes(config, tmp_path) == [2001]
    assert fingerprint(config, tmp_path, None) != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(bbox=[6, 1, 50, 3]), "has a box outside a.png"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "has no pixel"),
        (lambda c: c["annotations"][0].update(category_id=5), "of category 5, which the file does not list"),
        (lambda c: c["annotations"][1].update(id=1), "2 entries are annotation 1"),
        (lambda c: c["images"].append(c["images"][0]), "2 entries are image 7"),
    ],
)
def test_data_check_names_what_is_wrong_with_things(
    change: Callable[[dict[str, Any]], None], words: str, tmp_path: Path
) -> None:
    coco_set(tmp_path, change)
    config_of(tmp_path, COCO)

    code, _, err = call("data", "check", tmp_path)

    assert code == 1
    assert words in err


def test_a_file_name_that_leads_out_of_the_set_is_refused(tmp_path: Path) -> None:
    coco_set(tmp_path, lambda written: written["images"][0].update(file_name="../../secret.png"))

    with pytest.raises(DataError, match="which is not below"):
        open_split(config_of(tmp_path, COCO), tmp_path, "train")


def test_labels_of_another_size_than_their_image_are_refused(tmp_path: Path) -> None:
    coco_set(tmp_path, lambda written: written["images"][0].update(height=9))

    with pytest.raises(DataError, match=r"run lengths|is 8x10, its things"):
        open_split(config_of(tmp_path, COCO), tmp_path, "train").sample(0)


def test_cityscapes_things_come_from_its_instance_ids(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        frame(root / "leftImg8bit" / split / "town" / "a_leftImg8bit.png")
        found = np.full(SIZE, 7, np.uint16)  # road
        found[1:3, 1:4], found[4:6, 1:4], found[0, 0] = 26000, 26001, 24  # two cars, and a crowd of people
        png(root / "gtFine" / split / "town" / "a_gtFine_instanceIds.png", found)
    config = config_of(tmp_path, '[data]\nkind = "cityscapes"\nroot = "data"\n')

    assert codes(config, tmp_path) == [13001, 13002]
    assert draft_contract(config).model_dump()["things"][:3] == ("person", "rider", "car")


def test_vocs_things_come_from_classes_and_objects(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("a\n")
    frame(root / "JPEGImages" / "a.jpg")
    objects = np.zeros(SIZE, np.uint8)
    objects[1:3, 1:4], objects[4:6, 1:4], objects[7] = 1, 2, 255
    png(root / "SegmentationObject" / "a.png", objects)
    png(root / "SegmentationClass" / "a.png", np.where(objects == 0, 0, np.where(objects == 255, 255, 15)).astype("u1"))

    assert codes(config_of(tmp_path, '[data]\nkind = "voc"\nroot = "data"\n'), tmp_path) == [15001, 15002]
    (root / "SegmentationObject" / "a.png").unlink()
    with pytest.raises(DataError, match="missing"):
        open_split(load_config(tmp_path), tmp_path, "train")


@pytest.mark.parametrize("data", [FOLDER, COCO])
def test_labels_of_things_want_the_task_of_things(data: str, tmp_path: Path) -> None:
    (tmp_path / "segpipe.toml").write_text(data + REST.replace("instances", "semantic"))

    code, _, err = call("data", "check", tmp_path)

    assert code == 1
    assert 'set [task] kind = "instances"' in err
