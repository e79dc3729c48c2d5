"""Code of users beside a run: where it is found, what of it counts, and which names are refused."""

import sys
from pathlib import Path

import pytest

from segpipe.errors import ConfigError
from stages.config import user_code
from stages.config.user_code import find_factory, look_beside, source_hash

SETTING = "[model] name"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run's folder that is looked in, far from the working directory, which is empty."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(user_code, "_beside_run", [])
    folder = tmp_path / "run"
    folder.mkdir()
    look_beside(folder)
    return folder


def test_a_module_in_the_runs_folder_is_found_with_what_lies_beside_it_and_leaves_the_path_as_it_was(run: Path) -> None:
    before = list(sys.path)
    (run / "their_parts.py").write_text("WIDTH = 7\n")
    (run / "their_net.py").write_text("from their_parts import WIDTH\ndef make():\n    return WIDTH\n")

    assert find_factory("their_net:make", SETTING)() == 7
    assert sys.path == before


def test_the_working_directory_counts_and_the_runs_folder_comes_first(run: Path) -> None:
    Path("their_place.py").write_text("WHERE = 'working directory'\n")
    found = [find_factory("their_place:WHERE", SETTING)]
    (run / "their_place.py").write_text("WHERE = 'run'\n")
    found.append(find_factory("their_place:WHERE", SETTING))

    assert found == ["working directory", "run"]


def test_two_runs_may_each_have_a_module_of_one_name(run: Path) -> None:
    other = run.parent / "other"
    other.mkdir()
    found = []
    for number, folder in enumerate((run, other, run)):
        (folder / "their_twin.py").write_text(f"NUMBER = {number}\n")
        look_beside(folder)
        found.append(find_factory("their_twin:NUMBER", SETTING))

    assert found == [0, 1, 2]


@pytest.mark.parametrize("name", ["numpy", "json", "pytest"])
def test_a_name_that_is_installed_too_is_refused_before_anything_runs(name: str, run: Path) -> None:
    (run / f"{name}.py").write_text("raise SystemExit(9)\n")

    with pytest.raises(ConfigError, match=f"'{name}' lies in .*run and is installed too .*give your file another name"):
        find_factory(f"{name}:make", SETTING)


def test_so_is_one_of_a_file_that_the_module_imports(run: Path) -> None:
    (run / "their_main.py").write_text("import numpy\ndef make(): ...\n")
    (run / "numpy.py").write_text("raise SystemExit(9)\n")

    with pytest.raises(ConfigError, match=r"'numpy' lies in .*installed too"):
        find_factory("their_main:make", SETTING)


def test_what_the_module_imports_from_beside_it_counts_and_nothing_else(run: Path) -> None:
    (run / "their_top.py").write_text("import their_blocks.conv\nraise RuntimeError\n")
    (run / "their_blocks").mkdir()
    (run / "their_blocks/conv.py").write_text("from their_deep import X\n")
    (run / "their_deep.py").write_text("X = 1\n")
    (run / "unrelated.py").write_text("")
    before = source_hash("their_top:make", SETTING)
    (run / "unrelated.py").write_text("# changed\n")
    same = source_hash("their_top:make", SETTING)
    (run / "their_deep.py").write_text("X = 2\n")

    assert same == before
    assert source_hash("their_top:make", SETTING) != before


@pytest.mark.parametrize("name", ["their_nowhere:make", "../run/x:make", "/etc/passwd:make", ".:make", "a b:make"])
def test_a_module_that_is_nowhere_is_one_line_with_the_places(name: str, run: Path) -> None:
    with pytest.raises(ConfigError, match="run's folder, the working directory or PYTHONPATH"):
        find_factory(name, SETTING)


def test_a_folder_of_data_is_no_package(run: Path) -> None:
    (run / "train/ab12").mkdir(parents=True)

    with pytest.raises(ConfigError, match="cannot be imported"):
        source_hash("train:make", SETTING)
