"""What makes a training run again: settings whose meaning changed, and the user's own loss; nothing else of it."""

import importlib
from pathlib import Path

import pytest

from segpipe.rundir.manifest import stage_key
from stages.train import _key_parts
from tests.tiny import tiny_config


def key(path: Path, *overrides: str) -> str:
    """Of a training with these settings."""
    return stage_key(*_key_parts(tiny_config(path, *overrides), path, None))


def version(path: Path, *overrides: str) -> int:
    """The stage's version in the key."""
    number: int = _key_parts(tiny_config(path, *overrides), path, None)[1]["stage_version"]
    return number


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.class_weights=median-frequency",),
        ("train.loss=[{kind='ohem'}]",),
        ("train.loss=[{kind='cross-entropy',label_smoothing=0.1},{kind='ohem',keep=0.3}]",),
    ],
)
def test_networks_whose_settings_mean_what_they_did_stay_fresh(settings: tuple[str, ...], tmp_path: Path) -> None:
    assert version(tmp_path, *settings) == 2


@pytest.mark.parametrize(
    "settings",
    [
        ("train.loss=[{kind='ohem'}]", "train.class_weights=median-frequency"),
        ("train.loss=[{kind='ohem'}]", "train.class_weights=[1,2,1,1,1]"),
        ("train.loss=[{kind='dice'},{kind='ohem',label_smoothing=0.1}]",),
    ],
)
def test_ohem_with_weights_or_smoothing_is_trained_again(settings: tuple[str, ...], tmp_path: Path) -> None:
    assert version(tmp_path, *settings) == 3


def test_losses_are_written_into_the_key_as_before(tmp_path: Path) -> None:
    terms = (
        "[{kind='cross-entropy',label_smoothing=0.1,weight=1},{kind='focal',gamma=2},{kind='boundary',boundary_px=3}]"
    )
    plain = tiny_config(tmp_path, "train.loss=[{kind='cross-entropy'}]").sections("train")["train"]
    several = tiny_config(tmp_path, f"train.loss={terms}").sections("train")["train"]

    assert "loss" not in plain
    assert several["loss"] == [
        {"kind": "cross-entropy", "label_smoothing": 0.1},
        {"kind": "focal"},
        {"kind": "boundary", "boundary_px": 3},
    ]


def test_an_edited_loss_of_the_users_is_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "their_loss_module.py"
    source.write_text("def make(ignore_index): ...\n")
    importlib.invalidate_caches()
    setting = "train.loss=[{kind='their_loss_module:make'}]"
    before = key(tmp_path, setting)
    source.write_text("def make(ignore_index): return None\n")

    assert key(tmp_path, setting) != before
