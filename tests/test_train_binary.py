"""Two classes from one-channel 16-bit images with one sigmoid output, from the files to the runtime's mask."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segpipe.errors import ConfigError
from segpipe.media.images import write_image
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from segpipe.runtime.segmenter import Segmenter
from stages.config.file import load_config
from stages.config.root import Config
from stages.pipeline import Selection, run_stages
from stages.table import NAMES

TOML = """
[data]
kind = "folder"
root = "data"
classes = ["sound", "defect"]

[input]
height = 64
width = 64
channels = 1
channel_order = "as_is"
dtype = "uint16"
value_range = [0, 4095]
mean = [0.5]
std = [0.25]

[model]
options = { width = 8 }

[train]
epochs = 10
batch_size = 4
workers = 0
threads = 1
output = "sigmoid"
threshold = 0.4
loss = [{ kind = "cross-entropy" }, { kind = "dice" }]
class_weights = "median-frequency"

[validate]
images = 4

[validate.limits]  # a network trained for seconds has small margins: rounding flips more of it
min_agreement = 0.95
max_flips_inside = 0.05
max_iou_drop = 0.1

[benchmark]
frames = 2
rounds = 3
peers = []
"""


def write_defects(root: Path, split: str, count: int) -> None:
    """12-bit grey frames with a bright disc, which is the defect."""
    rng = np.random.default_rng(len(split))
    for number in range(count):
        mask = np.zeros((64, 64), np.uint8)
        centre = rng.integers(16, 48, 2).tolist()
        cv2.circle(mask, centre, int(rng.integers(8, 16)), 1, -1)
        frame = rng.integers(900, 1500, mask.shape) + 1800 * mask.astype(np.int64)
        write_image(root / f"{split}/images/{number}.png", frame.astype(np.uint16))
        write_image(root / f"{split}/masks/{number}.png", mask)


@pytest.fixture(scope="module")
def binary_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Config]:
    """A finished run on such images."""
    path = tmp_path_factory.mktemp("binary")
    for split, count in (("train", 16), ("val", 4)):
        write_defects(path / "data", split, count)
    (path / "segpipe.toml").write_text(TOML)
    config = load_config(path)
    return run_stages(path, config, path, Selection()), config


def test_every_stage_takes_a_sigmoid_network(binary_run: tuple[RunDirectory, Config]) -> None:
    run, _ = binary_run
    contract = run_contract(run)

    assert set(run.manifest.stages) == set(NAMES)
    assert (contract.output_kind, contract.score_channels, contract.threshold) == ("sigmoid", 1, 0.4)
    assert (contract.channels, contract.dtype) == (1, "uint16")
    assert run.record("train").figures["test_classes"]["defect"]["iou"] > 0.6, "guessing gives 0.1"
    assert run.record("validate").figures["failed"] == []


def test_the_runtime_finds_the_defect_in_a_frame(binary_run: tuple[RunDirectory, Config]) -> None:
    run, _ = binary_run
    frame = np.full((64, 64, 1), 1200, np.uint16)
    frame[20:44, 20:44] = 3000
    with Segmenter.open(run.path) as segmenter:
        mask = segmenter(frame)

    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert mask[32, 32] == 1
    assert mask[4, 4] == 0


def test_sigmoid_with_three_classes_is_refused(tmp_path: Path) -> None:
    from tests.tiny import tiny_config

    with pytest.raises(ConfigError, match="'sigmoid' needs exactly 2 classes"):
        tiny_config(tmp_path, "train.output=sigmoid")
