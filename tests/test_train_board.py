"""TensorBoard's log of a training: what is in it, and that looking on changes no weight."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from segpipe.rundir.directory import RunDirectory
from stages.pipeline import Selection, run_stages
from stages.report.reading import read_facts
from tests.tiny import tiny_config

CLASSES = ("background", "disc", "box", "triangle", "ring")


@pytest.fixture(scope="module")
def board(finished_run: Path) -> Any:
    """The log of the tiny training."""
    events = EventAccumulator(str(finished_run / "logs/train"))
    events.Reload()
    return events


def test_the_board_has_learning_rate_and_the_iou_of_each_class(board: Any, finished_run: Path) -> None:
    history = read_facts(RunDirectory(finished_run)).history
    rates = [event.value for event in board.Scalars("learning_rate")]
    ious = {name: board.Scalars(f"val_iou/{name}") for name in CLASSES}

    assert rates[-1] == pytest.approx(history["learning_rate"][-1], abs=1e-6)
    assert {name: len(events) for name, events in ious.items()} == dict.fromkeys(CLASSES, 3)
    for epoch, mean in enumerate(history["val_miou"]):
        assert sum(events[epoch].value for events in ious.values()) / len(CLASSES) == pytest.approx(mean, abs=1e-5)


def test_the_board_shows_the_same_validation_frames_each_epoch(board: Any) -> None:
    tags = [tag for tag in board.Tags()["images"] if tag.startswith("val/frame ")]

    assert len(tags) == 3
    for tag in tags:
        images = board.Images(tag)
        assert len({image.step for image in images}) == 3
        assert all(image.encoded_image_string.startswith(b"\x89PNG") for image in images)


def test_looking_on_changes_no_weight(finished_run: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "train.tensorboard=false")
    run = run_stages(tmp_path, config, tmp_path, Selection(last="train"))

    assert not (tmp_path / "logs").exists()
    assert run.artifact_bytes("train", "model.safetensors") == RunDirectory(finished_run).artifact_bytes(
        "train", "model.safetensors"
    )
