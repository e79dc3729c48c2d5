"""Fixtures that several test modules share."""

import fcntl
import importlib.util
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

from segpipe import testing
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from stages.pipeline import Selection, run_stages
from tests.tiny import tiny_config
from tests.trained import trained_config

settings.register_profile("segpipe", deadline=None)  # a busy machine is no slow code
settings.load_profile("segpipe")

signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup and a shell's `&` ignore it, and children inherit that


def pytest_configure() -> None:
    """What `make test` names in SEGPIPE_REQUIRE must be there: without it tests would be skipped, not passed."""
    wanted = os.environ.get("SEGPIPE_REQUIRE", "").split(",")
    if missing := [name for name in wanted if name and importlib.util.find_spec(name) is None]:
        raise pytest.UsageError(f"{', '.join(missing)} not installed, which SEGPIPE_REQUIRE names: run `make test`")


def pytest_runtest_setup() -> None:
    """PyTorch's exporter parses the sources of its five hundred operators in every export, for the same list."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    operators = getattr(getattr(registration, "onnxscript_apis", None), "_module", None)  # None until the first export
    if operators is not None and not hasattr(operators.get_torchlib_ops, "cache_info"):
        operators.get_torchlib_ops = cache(operators.get_torchlib_ops)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made by hand, nothing trained. Shared by a module: copy it before writing."""
    return testing.make_run(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture(scope="module")
def segmenter(run: Path) -> Iterator[Segmenter]:
    """The run of the module, opened once."""
    with Segmenter.open(run) as opened:
        yield opened


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every stage done. Shared: never write to it, copy it (see `run_copy`)."""
    return made_once(tmp_path_factory, "finished", lambda path: run_stages(path, tiny_config(path), path, Selection()))


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


@pytest.fixture
def empty_run(tmp_path: Path) -> RunDirectory:
    """A run directory in which nothing has happened."""
    return RunDirectory.create(tmp_path / "run")


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained well enough to have wide margins, validated. Shared: copy it before writing."""
    return made_once(
        tmp_path_factory,
        "trained",
        lambda path: run_stages(path, trained_config(path), path, Selection(last="validate")),
    )


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A run that the first of pytest's workers to need it makes, for all of them."""
    base = factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name / "run"
    path.parent.mkdir(exist_ok=True)
    with (path.parent / ".made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        if not os.fstat(made.fileno()).st_size:
            make(path)
            made.write("whole")
    return path


@pytest.fixture
def trained_copy(trained_run: Path, tmp_path: Path) -> Path:
    """A trained run of one's own."""
    return Path(shutil.copytree(trained_run, tmp_path / "trained"))
