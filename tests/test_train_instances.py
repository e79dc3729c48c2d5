"""The trainer on things: the same loop, average precision as the headline, a resume to the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segpipe.errors import ConfigError
from stages.config.file import load_config
from stages.config.losses import CrossEntropy, ThingWeights
from stages.data.shapes import CLASSES, PALETTE, ShapesSplit
from stages.models.centremask import CentreMask
from stages.tasks import offline_task_of
from stages.train.fit import Subject, learn_subject
from stages.train.resume import KeepResumePoint, ResumePoints
from stages.train.trainer import Folders
from tests.test_centremask import CONTRACT, batch, network, split
from tests.tiny import write_toml

TOML = """
[data]
kind = "shapes"

[input]
height = 64
width = 96

[train]
epochs = 2
batch_size = 2
workers = 0
threads = 1
tensorboard = false
"""


class Stopped(Exception):  # noqa: N818 - no error: what a test stops training with
    """Between two epochs."""


def taught(folder: Path) -> ResumePoints:
    """Two epochs of two frames with ids, wherever a training in this folder stood."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = CentreMask(3, len(CLASSES), len(CLASSES) - 1, top=CONTRACT.top, width=4, prototypes=8)
    train, val = split("train"), split("val")
    assert isinstance(train, ShapesSplit)
    contract: Any = CONTRACT
    subject = Subject(network, contract, train, val, PALETTE)
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(write_toml(folder, TOML), [])
    return learn_subject(subject, config, Folders(folder / "resume", folder / "sheet.png", folder / "logs"))[1]


def test_training_on_things_stops_and_resumes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taught(tmp_path / "whole")
    keep = KeepResumePoint.keep

    def keep_then_stop(self: KeepResumePoint, trainer: Any) -> None:
        keep(self, trainer)
        raise Stopped

    monkeypatch.setattr(KeepResumePoint, "keep", keep_then_stop)
    with pytest.raises(Stopped):
        taught(tmp_path / "stopped")
    monkeypatch.undo()
    resumed = taught(tmp_path / "stopped")

    assert [row["epoch"] for row in whole.history] == [1, 2]
    assert {"loss", "val_ap"} <= whole.history[0].keys()
    assert resumed.history == whole.history
    assert resumed.best["epoch"] == whole.best["epoch"]
    assert resumed.best["confusion"] == whole.best["confusion"]
    assert whole.best["confusion"]["frames"] == 2
    weights = whole.best["weights"]
    assert weights.keys() == resumed.best["weights"].keys()
    assert all(torch.equal(weights[name], resumed.best["weights"][name]) for name in weights)
    assert (tmp_path / "whole" / "sheet.png").stat().st_size > 0


def test_weights_of_the_loss_are_no_parameter_at_their_defaults_and_refused_where_there_are_no_things(
    tmp_path: Path,
) -> None:
    folder = write_toml(tmp_path, TOML)
    of_things = 'task={kind="instances"}'
    weighed = load_config(folder, [of_things, "train.things={semantic=0.0, boxes=4.0}"])

    assert "things" not in load_config(folder, [of_things]).training()["train"]
    assert weighed.training()["train"]["things"] == {"semantic": 0.0, "boxes": 4.0}
    with pytest.raises(ConfigError, match=r"\[train.things\] weighs the parts"):
        load_config(folder, ["train.things.boxes=4.0"])
    with pytest.raises(ConfigError, match="no thing is learnt"):
        load_config(folder, [of_things, "train.things.heat=0"])


def test_each_weight_counts_its_part_of_the_loss() -> None:
    images, ids = batch()
    answer = network().train()(images)
    task = offline_task_of(CONTRACT)

    def loss(**weights: float) -> float:
        module = task.loss((CrossEntropy(kind="cross-entropy"),), None, lambda value: value, ThingWeights(**weights))
        return float(module(answer, ids).detach())

    least, masks, semantic = loss(masks=0, semantic=0), loss(semantic=0), loss(masks=0)
    assert min(masks, semantic) > least > 0
    assert loss() == pytest.approx(masks + semantic - least, rel=1e-5)
    assert loss(heat=2, boxes=4, masks=4, semantic=2) == pytest.approx(2 * loss(), rel=1e-5)
