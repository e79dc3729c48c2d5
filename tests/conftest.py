"""Fixtures that several test modules share."""

import shutil
from pathlib import Path

import pytest

from segpipe.rundir import RunDirectory
from stages.pipeline import Selection, run_stages
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every stage done. Shared: never write to it, copy it (see `run_copy`)."""
    path = tmp_path_factory.mktemp("finished") / "run"
    run_stages(path, tiny_config(path), path, Selection())
    return path


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def empty_run(tmp_path: Path) -> RunDirectory:
    """A run directory in which nothing has happened."""
    return RunDirectory.create(tmp_path / "run")
