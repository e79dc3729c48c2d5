"""segpipe.toml: what is accepted, and the words for what is not."""

from pathlib import Path

import pytest

from segpipe.errors import ConfigError, StorageError
from stages.config.file import load_config
from stages.config.starter import write_starter
from tests.tiny import TOML, tiny_config, write_tiny

TEMPLATES = ["demo", "folder", "camvid", "camvid-cpu", "cityscapes", "voc", "pet", "trained"]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_template_is_valid_and_commented(template: str, tmp_path: Path) -> None:
    path = write_starter(tmp_path / "run", template)

    kind = {"demo": "shapes", "trained": "folder"}.get(template, template.partition("-")[0])
    assert load_config(tmp_path / "run").data.kind == kind
    assert path.read_text().startswith("# ")


def test_a_starter_never_overwrites(tmp_path: Path) -> None:
    write_starter(tmp_path, "demo")

    with pytest.raises(ConfigError, match="exists already"):
        write_starter(tmp_path, "folder")


def test_a_starter_replaces_no_link(tmp_path: Path) -> None:
    link = tmp_path / "segpipe.toml"
    link.symlink_to("not-mounted-yet.toml")

    with pytest.raises(ConfigError, match="exists already"):
        write_starter(tmp_path, "folder")
    assert link.readlink() == Path("not-mounted-yet.toml")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 3", "epoch = 3", "unknown key 'train.epoch'. did you mean 'epochs'?"),
        ("epochs = 3", 'epochs = "many"', "train.epochs = 'many': wanted a whole number"),
        ("epochs = 3", "epochs = 0", "train.epochs = 0: wanted more than 0"),
        ("[train]", "[trian]", "unknown key 'trian'. did you mean 'train'?"),
        ("height = 48", "heigth = 48", "unknown key 'data.heigth'. did you mean 'height'?"),
        ('kind = "shapes"', 'kind = "shape"', "data.kind = 'shape' is not a known kind. did you mean 'shapes'?"),
        ("height = 64", "", "height and width go together"),
        ("[input]", "[input]\nfit = 'pad'", "fit 'pad' takes no height and width"),
        ("[input]", "[input]\nfit = 'squash'", "wanted 'stretch', 'letterbox' or 'pad'"),
        (
            "min_agreement = 0.9",
            "min_agremeent = 0.9",
            "'validate.limits.min_agremeent'. did you mean 'min_agreement'?",
        ),
        ("[data]", "[data", "is not TOML"),
        ("epochs = 3", "epochs = 1.5", "train.epochs = 1.5: wanted a whole number"),
        ("epochs = 3", "compile = 'yes please'", "train.compile = 'yes please': wanted true or false"),
        ("epochs = 3", "learning_rate = 'lots'", "train.learning_rate = 'lots': wanted a number or 'find'"),
        ("epochs = 3", "learning_rate = 0", "train.learning_rate = 0: wanted more than 0 or 'find'"),
        ("epochs = 3", "class_weights = [1, -1]", "train.class_weights.1 = -1: wanted 0 or more"),
        ("epochs = 3", "seed = -1", "train.seed = -1: wanted 0 or more"),
        ("epochs = 3", "late_crop = [1]", "train.late_crop = [1]: wanted more values"),
        ("epochs = 3", "augment = 3", "train.augment = 3: wanted a table"),
        ("epochs = 3", "loss = []", "train.loss = []: wanted 1 or more values"),
        ("epochs = 3", "loss = ['dice']", "train.loss.0 = 'dice': wanted a table with a kind"),
        ("epochs = 3", "loss = [{ weight = 2 }]", "'train.loss.0.kind' is missing"),
        ("epochs = 3", "loss = [{ kind = 'mine:' }]", "'mine:': wanted package.module:factory"),
        ("epochs = 3", "loss = [{ kind = 'dice', gamma = 9 }]", "unknown key 'train.loss.0.gamma'"),
        ("epochs = 3", "loss = [{ kind = 'dice', weigth = 9 }]", "'train.loss.0.weigth'. did you mean 'weight'?"),
        ("[input]", "[input]\nmean = 3", "input.mean = 3: wanted a list, as in [1, 2]"),
        ("epochs = 3", f"epochs = {'9' * 5000}", "holds a number of thousands of digits"),
        ("epochs = 3", f"epochs = 0x{'f' * 5000}", "holds a whole number beyond 64 bits"),
        ("epochs = 3", f"epochs = {2**63}", "holds a whole number beyond 64 bits"),
        ("epochs = 3", f"epochs = {'[' * 100000}", "nests tables or lists too deep"),
        (
            "options = { width = 4 }",
            f"options = {{ width = {'[' * 200 + ']' * 200} }}",
            "nests tables or lists too deep",
        ),
    ],
)
def test_mistakes_are_named_with_the_next_action(tmp_path: Path, old: str, new: str, said: str) -> None:
    (write_tiny(tmp_path) / "segpipe.toml").write_text(TOML.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[input]", "[input]\nchannels = 1", "mean and std need one value for each of the 1 channels"),
        ("[input]", "[input]\nmean = [0.5]", "mean and std need one value"),
        ("[input]", "[input]\nvalue_range = [255, 0]", "low < high"),
        ("[input]", "[input]\nstd = [0.2, 0, 0.2]", "std must be positive"),
        ("[input]", "[input]\nmean = [0.2, nan, 0.2]", "input.mean.1 = nan: wanted a finite number"),
        ("[train]", "[train]\noutput = 'sigmoid'", "output_kind 'sigmoid' needs exactly 2 classes"),
        ("FOLDER", "classes = ['a', 'a']", "class names must differ"),
        ("FOLDER", "classes = ['a', 'b']\nignore_index = 1", "ignore_index is the number of a class"),
        ("FOLDER", "classes = ['a', 'b']\nimages = '{splt}/images'", "images may hold {split}, and no other braces"),
        ("FOLDER", "classes = ['a', 'b']\nmasks = '{split'", "masks may hold {split}, and no other braces"),
        (
            "FOLDER",
            "classes = ['a', 'b']\npalette = [[0, 0, 256], [1, 1, 1]]",
            "data.palette.0.2 = 256: wanted 255 or less",
        ),
        ("FOLDER", "classes = ['a', 'b']\nremap = { x = 1 }", "'x', which is not a number of 0 to 65535"),
        ("FOLDER", "classes = ['a', 'b']\nremap = { 65536 = 1 }", "which is not a number of 0 to 65535"),
    ],
)
def test_contradictions_are_found_in_the_file_itself(tmp_path: Path, old: str, new: str, said: str) -> None:
    folder = "[data]\nkind = 'folder'\nroot = 'd'\n" + new + TOML[TOML.index("\n[input]") :]
    text = folder if old == "FOLDER" else TOML.replace(old, new, 1)
    (write_tiny(tmp_path) / "segpipe.toml").write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert said in str(caught.value)


def test_overrides_replace_values(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        "train.epochs=7",
        "model.name=mine:make",
        "validate.limits.min_agreement=0.5",
        "export.fp32_islands=['a']",
    )

    assert config.train.epochs == 7
    assert config.model.name == "mine:make"
    assert config.validate_.limits.min_agreement == 0.5
    assert config.export.fp32_islands == ("a",)


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train.epochs.deep=3"])
def test_malformed_overrides_are_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        tiny_config(tmp_path, override)


@pytest.mark.parametrize("value", ["9" * 5000, "0x" + "f" * 5000, "[" * 100000, "[" * 200 + "]" * 200])
def test_overrides_that_no_file_could_hold_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ConfigError):
        tiny_config(tmp_path, f"model.options.width={value}")


def test_a_folder_in_the_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "segpipe.toml").mkdir()

    with pytest.raises(StorageError, match=r"segpipe\.toml: Is a directory"):
        load_config(tmp_path)


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist.*segpipe new"):
        load_config(tmp_path)


def test_defaults_and_speed_settings_are_no_part_of_a_key(tmp_path: Path) -> None:
    plain = tiny_config(tmp_path)
    explicit = tiny_config(tmp_path, "train.learning_rate=3e-3", "train.workers=2", "train.threads=2")
    different = tiny_config(tmp_path, "train.learning_rate=1e-3")

    assert plain.sections("train") == explicit.sections("train")
    assert plain.sections("train") != different.sections("train")


def test_where_data_lies_is_no_part_of_a_key(tmp_path: Path) -> None:
    write_starter(tmp_path, "camvid")
    here, there = load_config(tmp_path), load_config(tmp_path, ["data.root=/elsewhere"])

    assert here.sections("data") == there.sections("data")
