"""Mask R-CNN by the commands: adopted with torchvision's weights, never trained, and for one size."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segpipe.artifacts import CHECKPOINT
from segpipe.errors import ConfigError
from segpipe.rundir.directory import RunDirectory
from stages.config.draft import draft_contract
from stages.config.file import load_config
from stages.models import build_for
from stages.results.figures import TrainFigures, read
from tests.calling import call
from tests.tiny import write_toml
from tests.tiny_mask_rcnn import TOP, theirs

TOML = f"""
[data]
kind = "shapes"
height = 48
width = 80
train = 2
val = 2
test = 2

[input]
height = 64
width = 96

[task]
kind = "instances"
top = {TOP}

[model]
name = "tests.tiny_mask_rcnn:network"
trained = "theirs.pth"

[train]
workers = 0
threads = 1
"""
MOBILENET = 'model={name="torchvision/maskrcnn_mobilenet_v3_large_fpn", options={width=8, proposals=16, tried=16}}'


def run_with(folder: Path, toml: str = TOML) -> Path:
    """A run that names torchvision's weights."""
    write_toml(folder, toml)
    older = {name.replace("mask_head.0.0.", "mask_head.mask_fcn1."): w for name, w in theirs().state_dict().items()}
    torch.save(older, folder / "theirs.pth")
    return folder


def refusal(*words: str | Path) -> str:
    """The one line that a command ends with."""
    code, _, err = call(*words)
    said = [line for line in err.splitlines() if line.startswith("error")]
    assert (code, len(said)) == (1, 1), err
    return said[0]


def test_adopting_keeps_torchvisions_weights_and_measures_things(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    code, _, err = call("adopt", run)
    figures = read(TrainFigures, RunDirectory(run).manifest.stages)
    kept = load_file(RunDirectory(run).artifact("train", CHECKPOINT))

    assert code == 0, err
    assert figures is not None
    assert figures.val_ap is not None
    assert {"masks", "boxes", "panoptic"} <= figures.test_things.keys()
    assert "adopted theirs.pth: test mask AP" in call("show", run)[1]
    wanted = theirs().state_dict()
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], wanted[name]) for name in wanted)


def test_training_it_is_refused_with_what_to_do(tmp_path: Path) -> None:
    said = refusal("train", run_with(tmp_path, TOML.replace('trained = "theirs.pth"\n', "")))

    assert "is not trained here" in said
    assert "segpipe adopt" in said


def test_every_size_in_one_run_is_refused_with_the_reason(tmp_path: Path) -> None:
    said = refusal("adopt", run_with(tmp_path, TOML.replace("height = 64\nwidth = 96", 'fit = "pad"')))

    assert "is for one size: its anchors" in said
    assert "height and width" in said


def test_masks_left_out_are_refused(tmp_path: Path) -> None:
    config = load_config(write_toml(tmp_path, TOML), [MOBILENET, 'task.masks="none"'])

    with pytest.raises(ConfigError, match="gives masks"):
        build_for(config.model, draft_contract(config))


@pytest.mark.parametrize(
    ("option", "words"),
    [("proposals=4000", "proposals is 4000, wanted 1 to 3840"), ("outputs=91", "categories: 0 numbers for 4 things")],
)
def test_options_that_nothing_can_be_made_of_are_refused(tmp_path: Path, option: str, words: str) -> None:
    config = load_config(write_toml(tmp_path, TOML), [MOBILENET, f"model.options={{{option}}}"])

    with pytest.raises(ConfigError, match=words):
        build_for(config.model, draft_contract(config))


def test_torchvisions_are_found_by_name_and_named_among_those_for_things(tmp_path: Path) -> None:
    config = load_config(write_toml(tmp_path, TOML), [MOBILENET])
    network = build_for(config.model, draft_contract(config)).eval()
    with torch.inference_mode():
        boxes, scores, *_ = network(torch.zeros(2, 3, 64, 96))

    assert (boxes.shape, scores.shape) == ((2, TOP, 4), (2, TOP))
    assert "torchvision/maskrcnn_resnet50_fpn" in call("models")[1]


def test_another_task_is_refused(tmp_path: Path) -> None:
    config = load_config(write_toml(tmp_path, TOML), [MOBILENET, 'task={kind="semantic"}'])

    with pytest.raises(ConfigError, match="for the task 'instances'"):
        build_for(config.model, draft_contract(config))
