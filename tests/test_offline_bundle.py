"""The offline bundle: what goes in, and that it comes out whole on the other side."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.offline_bundle import build_pure_wheel, wanted, write_pieces

PINS = (
    "numpy==2.4.6",
    "nvidia-cublas==13",
    "onnxruntime==1.31.1",
    "onnxruntime-gpu==1.31.1",
    "torch==2.14.1",
    "torchmetrics==1.9.0",
    "pydantic_core==2",
)
CONSTRAINTS = "\n".join(("# pins", *PINS))


def test_what_the_server_has_and_its_pytorch_stay_out() -> None:
    present = "pydantic-core @ file:///x\nonnxruntime_gpu==1.0\ntorchmetrics==1"

    assert wanted(CONSTRAINTS, "numpy==1.26.0\n") == [
        "onnxruntime-gpu==1.31.1",
        "torchmetrics==1.9.0",
        "pydantic_core==2",
    ]
    assert wanted(CONSTRAINTS, present) == ["numpy==2.4.6"]


def write_wheel(folder: Path) -> Path:
    """The smallest wheel that pip installs."""
    path = folder / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_thing.py", "ANSWER = 42\n")
        wheel.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_thing-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("pure", [True, False])
def test_sources_become_a_wheel_where_it_fits_every_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pure: bool
) -> None:
    pytest.importorskip("setuptools", reason="setuptools is not installed")
    monkeypatch.setenv(
        "PIP_NO_BUILD_ISOLATION", "false"
    )  # pip's way to say: take setuptools from here, not the network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    source, wheels = tmp_path / "source", tmp_path / "wheels"
    source.mkdir()
    extension = "" if pure else ", ext_modules=[Extension('tiny_part', ['part.c'], optional=True)]"
    (source / "setup.py").write_text(
        f"from setuptools import Extension, setup; setup(name='tiny', version='1', py_modules=['tiny']{extension})"
    )
    (source / "tiny.py").write_text("ANSWER = 42\n")
    wheels.mkdir()

    assert build_pure_wheel(str(source), wheels) is pure
    assert [path.name for path in wheels.iterdir()] == (["tiny-1-py3-none-any.whl"] if pure else [])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A packed bundle of a wheel and a data folder, in pieces of 1 kB."""
    (tmp_path / "street").mkdir()
    (tmp_path / "street/a.txt").write_text("data" * 1000)
    assert write_pieces([write_wheel(tmp_path), tmp_path / "street"], tmp_path / "bundle", 1024) > 3
    return tmp_path / "bundle"


def install(bundle: Path, home: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """As on the server."""
    environment = {
        "SEGPIPE_OFFLINE": str(home),
        "PATH": "/usr/bin:/bin:/usr/local/bin",
        "PYTHON": sys.executable,
        **more,
    }
    return subprocess.run(
        ["bash", str(bundle / "install.sh")], env=environment | more, capture_output=True, text=True, check=False
    )


def test_the_other_side_gets_wheels_and_data(bundle: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    first, again = install(bundle, home), install(bundle, home)

    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert (home / "site/tiny_thing.py").read_text() == "ANSWER = 42\n"
    assert (home / "data/street/a.txt").read_text() == "data" * 1000
    assert f'PYTHONPATH="{home}/site' in (home / "env.sh").read_text()


def test_the_environment_names_the_folders_of_nvidia_s_wheels(bundle: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "server" / "nvidia"
    for name in ("cu13", "cudnn"):
        (wheels / name / "lib").mkdir(parents=True)

    install(bundle, tmp_path / "home", PYTHONPATH=str(wheels.parent))

    sourced = ["bash", "-c", f". {tmp_path}/home/env.sh; echo $LD_LIBRARY_PATH"]
    folders = subprocess.run(sourced, capture_output=True, text=True, check=True).stdout
    assert {str(wheels / name / "lib") for name in ("cu13", "cudnn")} <= set(folders.strip().split(":"))


def test_a_damaged_piece_is_refused(bundle: Path, tmp_path: Path) -> None:
    piece = bundle / "piece.001"
    piece.write_bytes(b"x" + piece.read_bytes()[1:])

    assert install(bundle, tmp_path / "home").returncode != 0
    assert not (tmp_path / "home/done").exists()
