"""Data sets: synthetic frames that are the same everywhere, and files that are refused in plain words."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segpipe.errors import DataError, SegpipeError
from segpipe.media.images import write_image
from stages.config.file import parse_config
from stages.config.root import Config, ShapesData
from stages.data import fingerprint, labels_of, open_split
from stages.data.shapes import CLASSES, IGNORE, ShapesSplit

INPUT = {"height": 32, "width": 32}


def folder_config(**data: Any) -> Config:
    """Two classes in `data/`."""
    content = {"data": {"kind": "folder", "root": "data", "classes": ["a", "b"], **data}, "input": INPUT}
    return parse_config(content, "test")


def write_pair(root: Path, split: str, name: str, mask: np.ndarray) -> None:
    """An image and its mask, paired by name."""
    write_image(root / f"{split}/images/{name}.png", np.full((*mask.shape, 3), 90, np.uint8))
    write_image(root / f"{split}/masks/{name}.png", mask)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of one frame in each of train and val; there is no test split."""
    for split in ("train", "val"):
        write_pair(tmp_path / "data", split, f"{split}0", np.eye(8, dtype=np.uint8))
    return tmp_path


def test_synthetic_frames_never_change() -> None:
    """The digest was taken once; a change here changes every committed figure and needs a new VERSION."""
    split = ShapesSplit(ShapesData(kind="shapes"), "test")
    digest = hashlib.sha256()
    for index in range(4):
        for array in split.sample(index):
            digest.update(array.tobytes())

    assert digest.hexdigest()[:16] == "c4eb0c53b50a4719"


def test_synthetic_frames_hold_every_class_and_ignored_outlines() -> None:
    split = ShapesSplit(ShapesData(kind="shapes"), "train")
    labels = np.stack([split.sample(index)[1] for index in range(20)])

    assert set(np.unique(labels)) == {*range(len(CLASSES)), IGNORE}


def test_splits_share_no_frame() -> None:
    config = ShapesData(kind="shapes")
    frames = [ShapesSplit(config, split).sample(0)[0].tobytes() for split in ("train", "val", "test")]

    assert len(set(frames)) == 3


def test_folders_are_paired_by_name_and_val_serves_as_test(folder: Path) -> None:
    config = folder_config()
    val, test = open_split(config, folder, "val"), open_split(config, folder, "test")

    assert val.name(0) == test.name(0) == "val0"
    frame, labels = val.sample(0)
    assert frame.shape == (8, 8, 3)
    assert labels.tolist() == np.eye(8).tolist()
    assert len(labels_of(config).palette) == 2


@pytest.mark.parametrize("content", [b'{"a": [1, 2', b"[]", b"\xff\xfe", b'{"train/images/train0.png": 3}'])
def test_a_torn_cache_of_hashes_is_made_again(content: bytes, folder: Path) -> None:
    cache = folder / ".fingerprints.json"
    wanted = fingerprint(folder_config(), folder, cache)
    cache.write_bytes(content)

    assert fingerprint(folder_config(), folder, cache) == wanted


def test_palette_pngs_are_read_as_indices(folder: Path) -> None:
    image = Image.fromarray(np.eye(8, dtype=np.uint8), "P")
    image.putpalette([200, 10, 10, 10, 200, 10])
    image.save(folder / "data/val/masks/val0.png")

    assert open_split(folder_config(), folder, "val").sample(0)[1].tolist() == np.eye(8).tolist()


def test_labels_are_remapped(folder: Path) -> None:
    write_pair(folder / "data", "val", "val0", np.full((4, 4), 7, np.uint8))

    assert (open_split(folder_config(remap={"7": 1}), folder, "val").sample(0)[1] == 1).all()


@pytest.mark.parametrize("suffix", ["pairs", "camvid"])
def test_pairs_can_be_listed(folder: Path, suffix: str) -> None:
    (folder / "data/val.txt").write_text("val/images/val0.png val/masks/val0.png\n")
    content = {"data": {"kind": "camvid", "root": "data"}, "input": INPUT}
    config = parse_config(content, "test") if suffix == "camvid" else folder_config(pairs="{split}.txt")

    assert len(open_split(config, folder, "val")) == 1


def test_a_tab_lets_listed_names_hold_spaces(folder: Path) -> None:
    write_pair(folder / "data", "val", "val 1", np.eye(8, dtype=np.uint8))
    (folder / "data/val.txt").write_text("val/images/val 1.png\tval/masks/val 1.png\n")
    (folder / "data/train.txt").write_text("val/images/val 1.png val/masks/val 1.png\n")
    config = folder_config(pairs="{split}.txt")

    assert open_split(config, folder, "val").name(0) == "val 1"
    with pytest.raises(DataError, match="a tab between them where a name holds spaces"):
        open_split(config, folder, "train")


def test_cityscapes_and_voc_are_found_by_their_layout(tmp_path: Path) -> None:
    frame, mask = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 7, np.uint8)
    write_image(tmp_path / "leftImg8bit/val/ulm/ulm_000000_leftImg8bit.png", frame)
    write_image(tmp_path / "gtFine/val/ulm/ulm_000000_gtFine_labelIds.png", mask)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("one\n")
    Image.fromarray(frame).save(tmp_path / "one.jpg")
    (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "one.jpg").rename(tmp_path / "JPEGImages/one.jpg")
    write_image(tmp_path / "SegmentationClass/one.png", mask)

    for kind, label in (("cityscapes", 0), ("voc", 7)):  # Cityscapes' id 7 is its class 0, road
        config = parse_config({"data": {"kind": kind, "root": "."}, "input": INPUT}, "test")
        assert (open_split(config, tmp_path, "val").sample(0)[1] == label).all()


def broken_folders(folder: Path) -> dict[str, tuple[str, Config]]:
    """Ways to break a set: what to expect, and the config to read it with."""
    return {
        "label": ("holds label 9; the config has 2 classes", folder_config()),
        "size": ("is 8x8, its mask", folder_config()),
        "colour": ("is a colour image, a mask is a PNG of class numbers", folder_config()),
        "torn": ("is damaged", folder_config()),
        "partner": ("none of the 1 images of the val split has a mask", folder_config()),
        "empty": ("the val split in", folder_config(images="{split}/nothing")),
        "root": ("does not exist", folder_config(root="nowhere")),
        "grey": ("has 1 channels of uint8, the config says 3", folder_config()),
        "palette": ("palette has 1 colours for 2 classes", folder_config(palette=[[1, 2, 3]])),
    }


def break_folder(folder: Path, how: str) -> None:
    """Do to the val split what `how` says."""
    mask, image = folder / "data/val/masks/val0.png", folder / "data/val/images/val0.png"
    match how:
        case "label":
            write_image(mask, np.full((8, 8), 9, np.uint8))
        case "size":
            write_image(mask, np.zeros((9, 8), np.uint8))
        case "colour":
            write_image(mask, np.zeros((8, 8, 3), np.uint8))
        case "torn":
            image.write_bytes(image.read_bytes()[:20])
        case "partner":
            mask.unlink()
        case "grey":
            write_image(image, np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize("how", ["label", "size", "colour", "torn", "partner", "empty", "root", "grey", "palette"])
def test_broken_sets_are_refused_with_names(folder: Path, how: str) -> None:
    said, config = broken_folders(folder)[how]
    break_folder(folder, how)

    with pytest.raises(DataError) as caught:
        open_split(config, folder, "val").sample(0)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_file_in_a_folders_place_and_a_folder_in_a_files_are_named(folder: Path) -> None:
    (folder / "file").write_text("")
    (folder / "data/val.lst").mkdir()
    (folder / "data/bytes.lst").write_bytes(b"\xff\xfe")
    cases = {
        "is a file. set [data] root": folder_config(root="file"),
        "val.lst: Is a directory": folder_config(pairs="{split}.lst"),
        "bytes.lst is not UTF-8 text": folder_config(names="bytes.lst"),
    }

    for said, config in cases.items():
        with pytest.raises(SegpipeError) as caught:
            open_split(config, folder, "val")
        assert said in str(caught.value)


def test_the_fingerprint_follows_contents_not_times(folder: Path, tmp_path: Path) -> None:
    config, cache = folder_config(), tmp_path / "cache.json"
    image = folder / "data/train/images/train0.png"
    first = fingerprint(config, folder, cache)
    image.touch()
    touched = fingerprint(config, folder, cache)
    write_image(image, np.full((8, 8, 3), 91, np.uint8))

    assert touched == first
    assert fingerprint(config, folder, cache) != first
