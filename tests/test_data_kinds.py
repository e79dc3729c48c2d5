"""Kinds of data sets and images: colour masks, lists of names, palettes, binary masks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import DataError
from segpipe.media.images import write_image
from stages.config.file import load_config
from stages.data.check import SplitReport, all_faults, check, suggested_weights
from stages.data.reading import read_frame
from stages.pipeline import Selection, run_stages
from tests.labelled_pairs import SOUND, TOML, write_binary_masks, write_pair


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a sound set of three frames a split."""
    (tmp_path / "segpipe.toml").write_text(TOML)
    for split in ("train", "val"):
        for number in range(SOUND):
            write_pair(tmp_path / "data", split, f"{split}{number}")
    return tmp_path


@pytest.mark.parametrize("splits", [("train", "val"), ("val",)])
def test_a_class_that_never_occurs_is_an_error_that_names_the_remap(splits: tuple[str, ...], run: Path) -> None:
    write_binary_masks(run / "data", splits)

    result = CliRunner().invoke(app, ["data", "check", str(run)])
    with pytest.raises(DataError) as caught:
        run_stages(run, load_config(run), run, Selection(last="train"))

    said = f"the {splits[0]} split holds no pixel of 'b'"
    assert result.exit_code == 1
    for text in (result.stderr, str(caught.value)):
        assert said in text
        assert "25 % of its pixels are 255, the ignore index: if they are 'b'" in text
        assert 'set [data] remap = { "255" = 1 }' in text
    assert not list(run.rglob("augmentation.png")), "nothing was begun"


def test_the_remap_that_the_hint_names_makes_the_set_sound(run: Path) -> None:
    write_binary_masks(run / "data", ("train", "val"))
    reports = check(load_config(run, ['data.remap={"255" = 1}']), run)

    assert all_faults(reports) == []
    assert reports["train"].pixels == [SOUND * 48, SOUND * 16]


def test_classes_that_may_be_absent_are_a_line_in_the_config(run: Path) -> None:
    write_binary_masks(run / "data", ("train", "val"))
    allowed = 'data.absent_classes=["b"]'
    misspelt = all_faults(check(load_config(run, ["data.absent_classes=['bb']"]), run))

    assert all_faults(check(load_config(run, [allowed]), run)) == []
    assert load_config(run).sections("data") == load_config(run, [allowed]).sections("data"), "nothing is retrained"
    assert "names 'bb', which is not a class" in misspelt[0].message
    assert misspelt[0].hint == "did you mean 'b'?"


def test_a_palette_image_is_read_as_its_exact_colours_and_refused_when_it_is_transparent(run: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    image, wanted = Image.fromarray(colours).quantize(64), load_config(run).input
    image.save(run / "palette.png")
    image.save(run / "clear.png", transparency=0)

    assert np.array_equal(read_frame(run / "palette.png", wanted), np.asarray(image.convert("RGB")))
    with pytest.raises(DataError, match="4 channels of uint8, the config says 3"):
        read_frame(run / "clear.png", wanted)


def test_values_outside_the_contracts_range_are_refused(run: Path) -> None:
    config = load_config(run, ["input.value_range=[0, 80]"])

    said = check(config, run)["val"].offenders[0].message
    assert "holds values of 90 to 90, [input] value_range is 0 to 80" in said


def test_suggested_weights_are_median_frequency_and_log_frequency() -> None:
    """Class b fills 1 % of the frames it is in, class a 99 % and all of another; class c is nowhere."""
    report = SplitReport(pixels=[199, 1, 0], pixels_where_present=[200, 100, 0])
    frequency_a, frequency_b = 199 / 200, 1 / 100
    median = (frequency_a + frequency_b) / 2

    assert suggested_weights(report, "median-frequency") == pytest.approx(
        (median / frequency_a, median / frequency_b, 1.0), abs=1e-4
    )
    assert suggested_weights(report, "log-frequency") == pytest.approx(
        (1 / np.log(1.1 + 0.995), 1 / np.log(1.105), 1.0), abs=1e-4
    )


def test_colour_masks_become_classes_by_the_palette(run: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4], colours[4:], colours[0, 0] = (200, 10, 10), (10, 200, 10), (1, 2, 3)
    for path in run.rglob("masks/*.png"):
        write_image(path, colours)
    palette = ["data.masks_are=colours", "data.palette=[[200,10,10],[10,200,10]]"]
    report = check(load_config(run, [*palette, "data.ignore_colours=[[1,2,3]]"]), run)["train"]
    strange = check(load_config(run, palette), run)["train"]

    assert (report.pixels, report.ignored) == ([SOUND * 31, SOUND * 32], SOUND)
    assert "holds the colour (1, 2, 3) on 1 of 64 pixels" in strange.offenders[0].message
    assert len(strange.offenders) == SOUND


def test_splits_can_be_lists_of_names(run: Path) -> None:
    for split, names in (("train", "train0\ntrain2\n"), ("val", "train1\n")):
        (run / f"data/{split}.txt").write_text(names)
    overrides = ["data.names={split}.txt", "data.images=train/images", "data.masks=train/masks"]
    reports = check(load_config(run, overrides), run)

    assert [reports[split].frames for split in ("train", "val", "test")] == [2, 1, 1]
    (run / "data/val.txt").write_text("train1\nnowhere\n")
    assert "nowhere.png is missing" in check(load_config(run, overrides), run)["val"].offenders[0].message


def test_pets_are_found_by_their_lists(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    names = [f"cat_{number}" for number in range(40)]
    trimap = np.array([[1, 2], [3, 3]], np.uint8)
    (tmp_path / "annotations/trainval.txt").write_text("#header\n" + "".join(f"{name} 1 1 1\n" for name in names))
    (tmp_path / "annotations/test.txt").write_text("cat_0 1 1 1\n")
    for name in names:
        write_image(tmp_path / f"annotations/trimaps/{name}.png", trimap)
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / f"images/{name}.jpg")
    (tmp_path / "segpipe.toml").write_text('[data]\nkind = "pet"\nroot = "."\n[input]\nheight = 32\nwidth = 32\n')
    reports = check(load_config(tmp_path), tmp_path)

    frames = {split: report.frames for split, report in reports.items()}
    assert frames["train"] + frames["val"] == len(names)
    assert 0 < frames["val"] < 12
    assert (frames["test"], reports["test"].pixels, reports["test"].ignored) == (1, [1, 1], 2)
    assert not reports["train"].offenders
