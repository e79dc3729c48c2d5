"""What works where the extra `pipeline` is not installed, and what the rest says."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from segpipe import testing
from segpipe.cli.conventions import PIPELINE
from segpipe.media.images import write_image
from tests.children import ROOT

ABSENT = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {PIPELINE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
from segpipe.cli import main
main()
"""


def call(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in an interpreter that finds none of the pipeline's packages."""
    command = [sys.executable, "-c", ABSENT, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_list_is_the_extra_of_that_name() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["pipeline"]

    assert {line.partition(">")[0].replace("-", "_") for line in extra} == PIPELINE


@pytest.mark.parametrize("command", ["run", "show", "verify", "evaluate", "predict", "bundle", "validate"])
def test_a_finished_run_is_used_without_the_pipeline(command: str, run_copy: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "one.png", testing.make_frame(40, 60)[0])
    more: dict[str, tuple[str | Path, ...]] = {
        "predict": (tmp_path / "one.png", "-o", tmp_path / "out"),
        "bundle": ("-o", tmp_path / "bundle"),
        "validate": ("--hop", "onnxruntime-cpu"),
    }

    done = call(command, run_copy, *more.get(command, ()))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [("train", "--force"), ("export", "--force"), ("benchmark", "--force"), ("report",), ("validate", "--explain")],
)
def test_what_needs_the_pipeline_says_how_to_get_it(command: tuple[str, ...], run_copy: Path) -> None:
    done = call(command[0], run_copy, *command[1:])

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: this needs ")
    assert done.stderr.endswith("pip install 'segpipe[pipeline]'\n")
    assert "Traceback" not in done.stderr


def test_the_wheels_of_tensorrt_are_enough(tmp_path: Path) -> None:
    bindings = pytest.importorskip("tensorrt_rtx_bindings", reason="pip install 'segpipe[rtx]'")
    for found in Path(bindings.__file__).parents[1].glob("tensorrt_rtx_*"):
        if "bindings" in found.name or "libs" in found.name:  # not the module that pip makes from a source archive
            (tmp_path / found.name).symlink_to(found)
    code = f"""
import sys
sys.path += [{str(ROOT)!r}, {str(tmp_path)!r}]
from segpipe.runtime.trt import installed_version, is_installed, version
assert is_installed("tensorrt-rtx") and not is_installed("tensorrt")
print(version("tensorrt-rtx"), installed_version("tensorrt-rtx"))
"""

    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)

    assert result.stdout.split() == [bindings.__version__] * 2, result.stderr
