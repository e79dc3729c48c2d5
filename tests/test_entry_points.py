"""How `segpipe` finds the pipeline's commands: in a checkout, in an install old or new, and where there are none."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from segpipe import entry_points, testing
from tests.children import ROOT

WITHOUT_STAGES = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "stages":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""
MAIN = "from segpipe.cli import main\nmain()"
ADDED = """
import typer
app = typer.Typer()
@app.command()
def added() -> None: ...
@app.command()
def also() -> None: ...
"""


def call(code: str, *arguments: str, search: tuple[Path, ...] = (ROOT,)) -> subprocess.CompletedProcess[str]:
    """The command line in an interpreter that looks for packages in these folders first."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, search)), "COLUMNS": "120"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)


def install(folder: Path, version: str, entry_points: str) -> Path:
    """What an installer leaves: metadata, and the package where no source tree is around it."""
    information = folder / f"segpipe-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: segpipe\nVersion: {version}\n")
    (information / "entry_points.txt").write_text(entry_points)
    (folder / "segpipe").symlink_to(ROOT / "segpipe")
    return folder


def commands(help_text: str) -> list[str]:
    """The names in the box of commands."""
    box = help_text[help_text.index("Commands") :]
    return [line.split()[1] for line in box.splitlines()[1:] if line.startswith("│ ") and line[2] != " "]


def test_a_checkout_has_the_pipelines_commands_and_an_install_without_stages_has_the_others() -> None:
    everything, some = (call(code, "--help") for code in (MAIN, WITHOUT_STAGES + MAIN))

    own, pipeline = commands(some.stdout), {"new", "run", "train", "validate", "benchmark", "data"}
    assert {"predict", "bundle", "serve", "triton", "show", "verify", "doctor"} <= {*own}, some.stderr
    assert commands(everything.stdout)[-len(own) :] == own
    assert pipeline <= {*commands(everything.stdout)} - {*own}


def test_a_checkout_is_believed_and_not_what_was_once_installed_from_it(tmp_path: Path) -> None:
    install(tmp_path, "0.0.1", "[console_scripts]\nsegpipe = segpipe.cli:main\n")
    (tmp_path / "segpipe").unlink()

    done = call(MAIN, "--help", search=(tmp_path, ROOT))

    assert "train" in commands(done.stdout), done.stderr


def test_an_install_is_asked_for_its_entry_points(tmp_path: Path) -> None:
    install(tmp_path, "0.2", "[segpipe.commands]\nmore = more:app\n")
    (tmp_path / "more.py").write_text(ADDED)

    done = call(MAIN, "--help", search=(tmp_path,))

    assert commands(done.stdout)[:3] == ["added", "also", "predict"], done.stderr


@pytest.mark.parametrize("entry_points", ["", "[segpipe.commands]\ngone = gone.away:app\n"])
def test_an_install_whose_offline_half_was_left_out_still_segments(entry_points: str, tmp_path: Path) -> None:
    install(tmp_path, "0.2", entry_points)

    done = call(MAIN, "train", "run", search=(tmp_path,))

    assert done.returncode == 2
    assert "No such command 'train'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("value", "content", "reason"),
    [
        ("more:app", "import not_there_at_all\n", "No module named 'not_there_at_all'"),
        ("more:app", "import sys\nsys.exit(9)\n", "SystemExit: 9"),
        ("more:app", "app = )\n", "SyntaxError"),
        ("more:app", "", "has no attribute 'app'"),
        ("more:app", "app = object()\n", "more:app is of type object, wanted Typer"),
        ("more", "", "has no attribute ''"),
    ],
)
def test_an_entry_point_that_does_not_load_is_left_out_with_one_warning(
    value: str, content: str, reason: str, tmp_path: Path
) -> None:
    install(tmp_path, "0.2", f"[segpipe.commands]\nmore = {value}\nother = other:app\n")
    (tmp_path / "more.py").write_text(content)
    (tmp_path / "other.py").write_text(ADDED)

    done = call(MAIN, "--help", search=(tmp_path,))

    assert done.returncode == 0, done.stderr
    assert commands(done.stdout)[:3] == ["added", "also", "predict"]
    (warning,) = done.stderr.splitlines()
    assert "the entry point 'more' of segpipe.commands is left out" in warning
    assert reason in warning


@pytest.mark.parametrize("content", [b"[project", b"\xff\xfe", b"project = 5\n"])
def test_a_pyproject_that_cannot_be_read_counts_as_none(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside an installed package it is anybody's."""
    (tmp_path / "pyproject.toml").write_bytes(content)
    monkeypatch.setattr(entry_points, "__file__", str(tmp_path / "segpipe" / "entry_points.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(entry_points=()))

    assert [*entry_points.load("segpipe.commands", object)] == []


def test_a_run_is_shown_where_the_offline_half_was_left_out(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path / "run")

    done = call(WITHOUT_STAGES + MAIN, "show", str(run), "--json")

    assert done.returncode == 0, done.stderr
    assert {(line["stage"], line["state"]) for line in json.loads(done.stdout)} == {
        ("export", "fresh"),
        ("validate", "fresh"),
    }
