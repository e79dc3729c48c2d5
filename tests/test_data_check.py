"""`segpipe data check`, and training's own look at the data: every fault counted, before the first step."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import DataError
from segpipe.media.images import write_image
from stages.config.file import load_config
from stages.data.check import check, refuse_broken
from stages.pipeline import Selection, run_stages
from tests.children import PATIENCE_S, ROOT, SEGPIPE
from tests.labelled_pairs import FAULTS, SOUND, TOML, write_binary_masks, write_pair


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a sound set of three frames a split."""
    (tmp_path / "segpipe.toml").write_text(TOML)
    for split in ("train", "val"):
        for number in range(SOUND):
            write_pair(tmp_path / "data", split, f"{split}{number}")
    return tmp_path


def break_everything(root: Path) -> None:
    """One frame for every kind of fault, and thirty with a foreign label."""
    images, masks = root / "train/images", root / "train/masks"
    for number in range(FAULTS):
        write_pair(root, "train", f"foreign{number:02d}", label=9)
    for name in ("partner", "orphan", "torn", "size", "grey", "deep", "cmyk", "turned", "moving", "alpha"):
        write_pair(root, "train", name)
    (masks / "partner.png").unlink()
    (images / "orphan.png").unlink()
    (images / "torn.png").write_bytes((images / "torn.png").read_bytes()[:40])
    write_image(masks / "size.png", np.zeros((9, 8), np.uint8))
    write_image(images / "grey.png", np.zeros((8, 8), np.uint8))
    write_image(images / "deep.png", np.zeros((8, 8, 3), np.uint16))
    Image.new("RGBA", (8, 8)).save(images / "alpha.png")
    for name in ("cmyk", "turned", "moving"):
        (images / f"{name}.png").unlink()
    Image.new("CMYK", (8, 8)).save(images / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 8)).save(images / "turned.jpg", exif=exif)
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(images / "moving.webp", save_all=True, append_images=pictures[1:], lossless=True)


SAID = (
    "partner.png is missing",
    "orphan.png has no image",
    "torn.png is damaged",
    "size.png is 8x8, its mask",
    "grey.png has 1 channels of uint8",
    "deep.png has 3 channels of uint16",
    "alpha.png has 4 channels of uint8",
    "cmyk.jpg is CMYK",
    "turned.jpg is stored turned (EXIF orientation 6)",
    "moving.webp holds 2 pictures",
    "foreign29.png holds label 9",
)


def test_every_fault_is_counted_and_the_sound_frames_too(run: Path) -> None:
    break_everything(run / "data")
    report = check(load_config(run), run)["train"]

    for said in SAID:
        assert sum(said in fault.message for fault in report.offenders) == 1, said
    assert len(report.offenders) == FAULTS + len(SAID) - 1
    assert report.pixels == [SOUND * 32, SOUND * 32]


def test_faults_with_one_remedy_are_one_line_with_their_count_and_the_remedy(run: Path) -> None:
    break_everything(run / "data")
    result = CliRunner().invoke(app, ["data", "check", str(run)])
    lines = [line for line in result.stderr.splitlines() if "data/train" in line]

    assert result.exit_code == 1
    assert len(lines) == 9, lines
    foreign = next(line for line in lines if "holds label 9" in line)
    assert f"; {FAULTS - 1} more of this kind: among them train/foreign01, train/foreign02, " in foreign
    assert foreign.endswith('or remap it: [data] remap = { "9" = 255 }')
    assert f"error: {FAULTS + len(SAID) - 1} faults in the data" in result.stderr
    assert "median-frequency" in result.stdout


def test_colour_masks_without_the_setting_are_one_line_that_names_it(run: Path) -> None:
    for path in run.rglob("masks/*.png"):
        write_image(path, np.full((8, 8, 3), 128, np.uint8))

    result = CliRunner().invoke(app, ["data", "check", str(run)])
    with pytest.raises(DataError) as caught:
        run_stages(run, load_config(run), run, Selection(last="train"))

    assert len(result.stderr.splitlines()) == 2, result.stderr
    assert ": train/train1, train/train2, val/val0, val/val1, val/val2. if its" in result.stderr
    assert 'set [data] masks_are = "colours"' in result.stderr.splitlines()[0]
    assert f"; {2 * SOUND - 1} more of this kind" in result.stderr.splitlines()[0]
    assert 'set [data] masks_are = "colours"' in str(caught.value)


def test_a_foreign_colour_is_counted_by_itself_against_the_whole_mask(run: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[0, :3], colours[1, 0] = (1, 2, 3), (9, 9, 9)
    for path in run.rglob("masks/*.png"):
        write_image(path, colours)
    palette = ["data.masks_are=colours", "data.palette=[[0,0,0],[10,200,10]]"]

    fault = check(load_config(run, palette), run)["train"].offenders[0]

    assert "the colours (1, 2, 3) on 3, (9, 9, 9) on 1 of 64 pixels: in neither" in fault.message


def test_missing_colours_are_listed_up_to_eight(run: Path) -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[0, :, 0] = range(1, 9)
    colours[1, :2, 0] = 9
    colours[2, 0, 0] = 10
    for path in run.rglob("masks/*.png"):
        write_image(path, colours)
    palette = ["data.masks_are=colours", "data.palette=[[0,0,0],[10,200,10]]"]

    message = check(load_config(run, palette), run)["train"].offenders[0].message

    assert "holds the colours (9, 0, 0) on 2, (" in message
    assert message.count(" on 1") == 7
    assert ", and 2 more: in neither" in message


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("data.images={split}/pictures", ("no image in train/pictures", "images are in train/images, train/masks")),
        ("data.masks={split}/labels", ("none of the 3 images of the train split has a mask", "labels/train0.png")),
        ("data.pairs={split}.lst", ("train.lst is not there", "images are in")),
        ("data.names={split}.lst", ("train.lst is not there", "images are in")),
    ],
)
def test_a_wrong_layout_shows_what_was_looked_for_and_what_is_there(
    setting: str, said: tuple[str, ...], run: Path
) -> None:
    config = load_config(run, [setting])
    (fault,) = check(config, run)["train"].offenders
    with pytest.raises(DataError) as caught:
        run_stages(run, config, run, Selection(last="train"))

    for words in (*said, "set [data] root"):
        assert words in f"{fault.message}. {fault.hint}"
        assert words in str(caught.value)


def test_masks_with_other_names_are_shown_by_an_example(run: Path) -> None:
    for path in run.rglob("masks/*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))

    assert "that folder holds for example train0_mask.png" in check(load_config(run), run)["train"].offenders[0].message


def test_a_sound_set_is_not_read_again_but_one_is_that_other_settings_passed(run: Path) -> None:
    config, cache = load_config(run), run / ".data-check"
    refuse_broken(config, run, cache, "fingerprint")
    write_binary_masks(run / "data", ("train",))

    refuse_broken(config, run, cache, "fingerprint")
    refuse_broken(load_config(run, ['data.absent_classes=["b"]']), run, cache, "other")
    with pytest.raises(DataError, match="holds no pixel of 'b'"):
        refuse_broken(config, run, cache, "other")


def test_opencvs_own_words_on_a_torn_image_are_not_shown(run: Path) -> None:
    torn = run / "data/val/images/val0.png"
    torn.write_bytes(torn.read_bytes()[:60])
    command = [*SEGPIPE, "data", "check", str(run)]

    told = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=PATIENCE_S
    ).stderr.splitlines()

    assert len(told) == 2, told
    assert "val0.png is damaged" in told[0]
    assert told[1] == f"error: 1 fault in the data, see above. `segpipe data check {run} --json` lists every one"


def test_a_sound_set_passes_with_its_histogram_as_json(run: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(run / "segpipe.toml"), "--json"])
    report = json.loads(result.stdout)

    assert result.exit_code == 0
    assert report["train"]["pixels"] == [SOUND * 32, SOUND * 32]
    assert report["test"]["frames"] == SOUND


def test_training_refuses_a_broken_set_before_the_first_step(run: Path) -> None:
    write_pair(run / "data", "val", "late", label=7)
    write_pair(run / "data", "train", "early", label=8)
    config = load_config(run)

    with pytest.raises(
        DataError, match=r"the data set has 2 faults: .*early.png holds label 8.*late.png holds label 7"
    ):
        run_stages(run, config, run, Selection(last="train"))
    assert not list(run.rglob("augmentation.png")), "nothing was begun"
    for split, name in (("val", "late"), ("train", "early")):
        write_pair(run / "data", split, name)
    run_stages(run, config, run, Selection(last="train"))


def test_an_empty_split_is_a_fault(run: Path) -> None:
    for path in (run / "data/val/images").iterdir():
        path.unlink()

    (fault,) = check(load_config(run), run)["val"].offenders

    assert "the val split" in fault.message
    assert "is empty" in fault.message


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_a_labelled_pixel_is_refused_before_training(split: str, run: Path) -> None:
    for mask in (run / "data" / split / "masks").iterdir():
        write_image(mask, np.full((8, 8), 255, np.uint8))

    with pytest.raises(DataError, match=f"the {split} split holds no labelled pixel"):
        run_stages(run, load_config(run), run, Selection(last="train"))
    assert not list(run.glob("train/*.partial/resume/*.ckpt"))


def table(run: Path, *settings: str) -> tuple[int, list[list[str]], str]:
    """Exit code, words of each line on stdout, and stderr of a check."""
    result = CliRunner().invoke(app, ["data", "check", str(run), *settings])
    return result.exit_code, [line.split() for line in result.stdout.splitlines()], result.stderr


def test_where_nothing_can_be_read_there_is_no_table_of_classes(run: Path) -> None:
    for path in run.rglob("masks/*.png"):
        path.write_bytes(b"")

    code, lines, _ = table(run)

    assert code == 1
    assert not [words for words in lines if "%" in " ".join(words) or "1.000" in words]


def test_ignored_pixels_are_told_apart_and_a_val_split_that_serves_as_test_counts_once(run: Path) -> None:
    for number in range(SOUND):
        mask = np.zeros((8, 8), np.uint8)
        mask[:2], mask[4:] = 255, 1
        write_image(run / f"data/train/masks/train{number}.png", mask)

    code, lines, err = table(run)

    assert code == 0
    assert lines[1][:3] == ["a", "33.333%", "50.000%"]
    assert ["ignored,", "of", "all", "pixels", "25.000%", "0.000%"] in lines
    assert [words[0] for words in lines if words[1:] == ["3", "0"]] == ["train", "val"]
    assert ["there", "is", "no", "test", "split:", "val", "is", "used", "for", "it"] in lines
    assert err.splitlines()[0].endswith('[train] class_weights = "median-frequency" or "log-frequency"')
    assert err.splitlines()[-1] == f"next        segpipe run {run}"
