"""The templates for things train on sets of the kinds that they are for, and two processes train what one trains.

The sets are the demo's shapes, written as COCO and Cityscapes write theirs.
"""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.id_maps import IDS_A_CLASS, UNLABELLED, classes_in, things_in
from segpipe.instances import crop_rle
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from stages.config.root import ShapesData
from stages.data.known import LABEL_SETS
from stages.data.shapes import CLASSES, ShapesSplit
from stages.results.figures import TrainFigures, read
from tests.calling import call
from tests.children import ROOT, SEGPIPE

pytestmark = pytest.mark.soak
COUNTS = {"train": 240, "val": 24}
CITY_IDS = (7, 24, 26, 27, 28)  # for the ground and the four shapes
SHOWN = ("road", "person", "car", "truck", "bus")
ABSENT = [name for name in LABEL_SETS["cityscapes"].classes if name not in SHOWN]
SMALL = (
    "input.height=96", "input.width=160", "model.options={width=8}", "train.epochs=2", "train.batch_size=8",
    "train.learning_rate=3e-3", "train.workers=0", "train.threads=1", "train.tensorboard=false",
)  # fmt: skip
LOSS_TOLERANCE = 1e-3
"""Halves of a batch are summed in another order, and batch norms see them apart."""


def sets(split: str) -> ShapesSplit:
    shapes = ShapesData(kind="shapes", height=96, width=160, train=COUNTS["train"], val=COUNTS["val"], test=1)
    return ShapesSplit(shapes, split, ids=True)


def write_coco(root: Path, split: str) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(len(sets(split))):
        frame, ids = sets(split).sample(number)
        write_image(root / f"{split}2017" / f"{number:04}.png", frame)
        images.append({"id": number, "file_name": f"{number:04}.png", "height": 96, "width": 160})
        for thing in things_in(ids):
            left, top, right, bottom = thing.box
            shape = {"bbox": [left, top, right - left, bottom - top], "area": thing.crop.area, "iscrowd": 0}
            told = {"id": len(annotations) + 1, "image_id": number, "category_id": thing.label}
            annotations.append(told | shape | {"segmentation": crop_rle(thing.crop, (96, 160))})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES) if number]
    (root / "annotations").mkdir(exist_ok=True)
    written = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(written))


def write_cityscapes(root: Path, split: str) -> None:
    for number in range(len(sets(split))):
        frame, ids = sets(split).sample(number)
        write_image(root / "leftImg8bit" / split / "town" / f"{number:04}_leftImg8bit.png", frame)
        write_image(root / "gtFine" / split / "town" / f"{number:04}_gtFine_instanceIds.png", as_city(ids)[:, :, None])


def as_city(ids: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Cityscapes' numbers: of a class, or 1000 times that and the thing's."""
    table = np.zeros(256, np.uint16)  # 0: no label
    table[: len(CITY_IDS)] = CITY_IDS
    numbers, things = table[classes_in(ids)], np.where(ids == UNLABELLED, 0, ids % IDS_A_CLASS)
    found: NDArray[np.uint16] = np.where(things > 0, numbers * 1000 + things - 1, numbers).astype(np.uint16)
    return found


KINDS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "detection": (write_coco, "coco", (f"data.classes={json.dumps(CLASSES)}",)),
    "panoptic": (
        write_cityscapes,
        "cityscapes",
        ("train.crop_height=96", "train.crop_width=160", f"data.absent_classes={json.dumps(ABSENT)}"),
    ),
}


@pytest.mark.parametrize("template", list(KINDS))
def test_a_template_for_things_trains_on_its_kind_of_set_and_finds_things(template: str, tmp_path: Path) -> None:
    write, folder, changes = KINDS[template]
    call("new", tmp_path / "run", "--template", template)
    for split in COUNTS:
        write(tmp_path / "run" / folder, split)
    given = [word for setting in (*SMALL, *changes) for word in ("--set", setting)]
    code, out, err = call("run", tmp_path / "run", "--until", "export", *given)
    assert code == 0, out + err
    figures = read(TrainFigures, RunDirectory(tmp_path / "run").manifest.stages)
    assert figures is not None
    print(template, figures.headline(), figures.test_things)

    assert (figures.val_ap or 0) > 0
    assert ("masks" in figures.test_things) == (template == "panoptic")
    with InstanceSegmenter.open(tmp_path / "run", "onnxruntime-cpu", allow_unvalidated=True) as segmenter:
        found = segmenter(sets("val").sample(0)[0])
    assert len(found) > 0
    assert bool(found.crops) == (template == "panoptic")


TWO = """
[data]
kind = "shapes"
height = 96
width = 160
train = 32
val = 5
test = 2

[input]
height = 96
width = 160

[task]
kind = "instances"
top = 16

[model]
name = "tests.soak.test_things_trained:plain_network"

[train]
epochs = 2
batch_size = 8
learning_rate = 1e-3
schedule = "constant"
workers = 0
threads = 1
tensorboard = false
"""


def plain_network(channels: int, classes: int, things: int, top: int) -> Any:
    """Without batch normalisation, which looks at each process's part of a batch alone."""
    from torch import nn

    from stages.models.centremask import CentreMask

    network = CentreMask(channels, classes, things, top=top, width=4, prototypes=4)
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(parent, name, nn.Identity())
    return network


def trained(path: Path, processes: int) -> list[dict[str, str]]:
    """The history of the same training by so many processes."""
    path.mkdir()
    (path / "segpipe.toml").write_text(TWO)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*launcher, "--no-python", *SEGPIPE, "train", str(path), "--set", f"train.devices={processes}"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "TORCHELASTIC_ERROR_FILE": ""}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=1200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    text = RunDirectory(path).artifact_bytes("train", "history.csv").decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_two_processes_train_things_as_one_does_and_count_each_frame_once(tmp_path: Path) -> None:
    one, two = trained(tmp_path / "one", 1), trained(tmp_path / "two", 2)

    assert [float(row["loss"]) for row in two] == pytest.approx([float(row["loss"]) for row in one], rel=LOSS_TOLERANCE)
    figures = read(TrainFigures, RunDirectory(tmp_path / "two").manifest.stages)
    assert figures is not None
    assert figures.frames  # told after what both processes found was put together
