"""`--set` on a training: what a later command without it does, in a script and in a terminal, and the line it keeps."""

import shutil
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segpipe.cli import app
from segpipe.errors import ConfigError
from segpipe.rundir.directory import RunDirectory
from stages.config.file import load_config
from stages.config.kept import forgotten, keep
from stages.pipeline import Selection, run_stages
from tests.children import SEGPIPE
from tests.terminal import in_terminal
from tests.tiny import write_tiny

QUICK = "train.epochs=1"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained with --set for one epoch, whose file says three. Shared: copy it before writing."""
    run = write_tiny(tmp_path_factory.mktemp("quick") / "run")
    assert CliRunner().invoke(app, ["train", str(run), "--set", QUICK]).exit_code == 0
    return run


@pytest.fixture
def run(quick: Path, tmp_path: Path) -> Path:
    """Such a run of one's own."""
    return Path(shutil.copytree(quick, tmp_path / "run"))


def epochs(run: Path) -> int:
    """For how many epochs the network was trained."""
    count: int = RunDirectory(run).record("train").figures["epochs"]
    return count


def answered(answer: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command in a terminal where somebody types `answer`."""
    code, said = in_terminal(*SEGPIPE, *arguments, typed=answer, columns=200)
    return code, said.decode()


def test_a_script_is_told_what_is_trained_again_and_trains_what_the_file_says(run: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(run)])

    assert result.exit_code == 0
    assert "trained with --set train.epochs=1; without it, it is trained again: to keep what is" in result.stderr
    assert "repeat --set, or write it into" in result.stderr
    assert result.stderr.count("train.epochs 1 -> 3") == 1
    assert epochs(run) == 3


def test_in_a_terminal_what_was_set_is_kept_as_a_line_and_nothing_is_trained(run: Path) -> None:
    before = (run / "manifest.json").read_bytes()
    code, said = answered("\n", "train", str(run))

    assert code == 0, said
    assert "Keep train.epochs=1, as lines in segpipe.toml?" in said
    assert "train: fresh, nothing to do" in said
    assert load_config(run).train.epochs == 1
    assert (run / "manifest.json").read_bytes() == before
    assert forgotten(run, []) is None


def test_in_a_terminal_one_may_train_again(run: Path) -> None:
    code, said = answered("n\n", "train", str(run))

    assert code == 0, said
    assert load_config(run).train.epochs == 3
    assert epochs(run) == 3


def test_no_answer_stops_the_command_and_changes_nothing(run: Path) -> None:
    end_of_input = "\x04"

    before = {name: (run / name).read_bytes() for name in ("manifest.json", "segpipe.toml", "config.json")}

    assert answered(end_of_input, "train", str(run))[0] == 130
    assert {name: (run / name).read_bytes() for name in before} == before


def test_only_a_training_that_set_alone_keeps_fresh_is_asked_about(run: Path) -> None:
    assert forgotten(run, []) is not None
    assert forgotten(run, [QUICK]) is None, "it is set again"
    assert forgotten(run, ["benchmark.rounds=7"]) is not None
    run_stages(run, load_config(run), run, Selection("export", "export"))
    assert forgotten(run, []) is not None, "a command that trains nothing in between changes nothing"
    toml = (run / "segpipe.toml").read_text()
    (run / "segpipe.toml").write_text(toml.replace("batch_size = 4", "batch_size = 8"))
    assert forgotten(run, []) is None, "an edited file is wanted as it is"
    (run / "segpipe.toml").write_text(toml.replace("epochs = 3", "epochs = 1"))
    assert forgotten(run, []) is None, "the file says it now"


def test_a_run_without_a_training_has_nothing_to_keep(tmp_path: Path) -> None:
    run = write_tiny(tmp_path)

    assert forgotten(run, []) is None
    RunDirectory.create(run)
    assert forgotten(run, []) is None


TOML = """# mine
[train]        # how
epochs = 20    # enough
loss = [
  { kind = "dice" },
]

[validate.limits]
min_agreement = 0.9
"""


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs=2", "epochs = 2    # enough"),
        ("train.batch_size=4", "batch_size = 4"),
        ("validate.limits.min_agreement=0.5", "min_agreement = 0.5"),
        ("model.name=mine:make", 'name = "mine:make"'),
        ("model.options={ width = 4, deep = [true, 'ö'] }", 'options = { "width" = 4, "deep" = [true, "ö"] }'),
        ("train.augment.flip=false", "flip = false"),
    ],
)
def test_a_kept_setting_is_one_line_and_all_others_stay(override: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "segpipe.toml").write_text(TOML)
    keep(tmp_path, [override])
    lines = (tmp_path / "segpipe.toml").read_text().splitlines()

    assert line in lines
    gone = set(TOML.splitlines()) - set(lines)
    assert len(gone) <= 1, gone
    assert "# mine" in lines


@pytest.mark.parametrize("override", ["train.epochs=2", "train.batch_size=4", "model.name=bisenetv2"])
def test_a_kept_setting_leaves_the_files_line_ends(override: str, tmp_path: Path) -> None:
    (tmp_path / "segpipe.toml").write_bytes(TOML.replace("\n", "\r\n").encode())
    keep(tmp_path, [override])
    content = (tmp_path / "segpipe.toml").read_bytes()

    assert content.count(b"\n") == content.count(b"\r\n") >= TOML.count("\n")
    assert b"\r\r" not in content


def test_a_setting_without_a_simple_place_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "segpipe.toml").write_text(TOML)

    with pytest.raises(ConfigError, match=r"no simple place for train.loss.*by hand: \[train\] loss = "):
        keep(tmp_path, ["train.loss=[{kind='focal'}]"])
    assert (tmp_path / "segpipe.toml").read_text() == TOML
    assert tomllib.loads(TOML)
