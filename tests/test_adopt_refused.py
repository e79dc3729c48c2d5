"""What cannot be adopted, in one line each: factories, contracts and data that contradict the network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from segpipe.media.images import write_image
from tests.calling import call
from tests.tiny import write_toml

FOLDER = """
[data]
kind = "folder"
root = "data"
classes = ["a", "b", "void"]
{data}
[input]
height = {height}
width = 32

[model]
name = "their_small_network:make"
trained = "theirs.pth"

[train]
workers = 0
"""
MODULE = """
from torch import nn

def make(channels, classes):
    {body}
"""
GOOD = "return nn.Conv2d(channels, classes, 3, padding=1)"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes in the labels of one frame, three in the network, whose weights are there."""
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 1
    write_image(tmp_path / "data/val/images/one.png", np.full((8, 8, 3), 90, np.uint8))
    write_image(tmp_path / "data/val/masks/one.png", mask)
    torch.manual_seed(1)
    torch.save({f"0.{name}": value for name, value in nn.Conv2d(3, 3, 3).state_dict().items()}, tmp_path / "theirs.pth")
    monkeypatch.chdir(tmp_path)
    return write(tmp_path)


def write(path: Path, body: str = GOOD, data: str = "", height: int = 32) -> Path:
    """The run with its factory."""
    wrapped = body.replace("return ", "return nn.Sequential(", 1) + ")" if body == GOOD else body
    (path / "their_small_network.py").write_text(MODULE.format(body=wrapped))
    return write_toml(path, FOLDER.format(data=data, height=height))


def said(run: Path) -> str:
    """Of a refusal."""
    code, _, error = call("adopt", run)
    assert code == 1, error
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


def test_no_train_split_is_needed_and_unscored_classes_leave_the_mean(run: Path) -> None:
    write(run, data='unscored = ["void"]')
    code, _, told = call("adopt", run)

    assert code == 0, told
    assert "with 'void', not scored) on frames of val, for want of a test split" in told


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise ValueError('no such width')", "their_small_network:make raised ValueError: no such width"),
        ("raise SystemExit(0)", "their_small_network:make raised SystemExit: 0"),
        ("return [classes]", "their_small_network:make gave a list. return the network, a torch.nn.Module"),
        ("return nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1))", "0.weight [3, 3, 3, 3], wanted [5, 3, 3, 3]"),
        ("return nn.Sequential(nn.Conv2d(1, classes, 3, padding=1))", "0.weight [3, 3, 3, 3], wanted [3, 1, 3, 3]"),
        ("return nn.Sequential(nn.Conv2d(3, classes, 3, 4, 1))", "gives 8 x 8 scores for 32 x 32 pixels"),
        ("return nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten())", "gives a Tensor in eval mode"),
        ("return nn.Sequential(nn.Conv2d(3, 3, 3), nn.Unflatten(2, (7, 7)))", "takes no frame of 1x3x32x32: "),
        ("import argparse; argparse.ArgumentParser().error('x')", "raised SystemExit: 2"),
    ],
)
def test_a_factory_that_makes_no_such_network_is_refused(body: str, reason: str, run: Path) -> None:
    assert reason in said(write(run, body))


def test_a_module_that_cannot_be_read_is_refused(run: Path) -> None:
    (run / "their_small_network.py").write_text("def make(:\n")

    assert "their_small_network:make raised SyntaxError" in said(run)


def test_a_network_that_moves_its_own_statistics_is_refused(run: Path) -> None:
    network = "network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1))"
    hook = "network.register_forward_hook(lambda module, *_: module[0].bias.data.add_(1) is None or None)"
    body = f"{network}; {hook}; return network"

    assert "changes its own weights or buffers while it answers" in said(write(run, body))


def test_a_folder_without_labels_or_images_is_refused(run: Path) -> None:
    write_image(run / "data/val/masks/one.png", np.full((8, 8), 255, np.uint8))
    unlabelled = said(run)
    (run / "data/val/masks/one.png").unlink()
    without = said(run)
    (run / "data/val/images/one.png").unlink()

    assert "the val split holds no labelled pixel" in unlabelled
    assert "mask" in without
    assert "val" in said(run)
