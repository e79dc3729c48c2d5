"""The import rules of the two halves: what may be loaded when, and who may know whom."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from stages.table import NAMES
from tests.children import ROOT

HEAVY = {"torch", "torchvision", "lightning", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cv2"}
OFFLINE = {"torch", "torchvision", "lightning", "onnx", "stages"}
"""What production has not."""
STAGE_MODULES = set(NAMES)


def modules_after(code: str) -> set[str]:
    """Top-level modules loaded by a fresh interpreter that ran `code`."""
    script = f"import sys\n{code}\nprint(' '.join({{name.partition('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.splitlines()[-1].split())


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_importing_segpipe_loads_nothing_heavy() -> None:
    loaded = modules_after("import segpipe")

    assert not loaded & (HEAVY | {"pydantic", "numpy", "stages"})


def test_help_loads_neither_pydantic_nor_numpy() -> None:
    call = "from segpipe.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    loaded = modules_after(call)

    assert "typer" in loaded
    assert not loaded & (HEAVY | {"pydantic", "numpy"})


def test_of_the_pipeline_help_loads_only_its_commands() -> None:
    call = "from segpipe.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    shown = "print(*(name for name in sys.modules if name.startswith('stages.')))"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{call}\n{shown}"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = result.stdout.splitlines()[-1].split()

    assert "stages.cli.run" in loaded
    assert {name for name in loaded if not f"{name}.".startswith("stages.cli.")} == {"stages.table"}


def test_show_knows_no_stage() -> None:
    loaded = modules_after("import segpipe.rundir.status, segpipe.rundir.verify, segpipe.rundir.directory")

    assert not loaded & (HEAVY | {"stages"})


def test_every_stage_is_light_until_there_is_work() -> None:
    loaded = modules_after(
        "import stages.pipeline\nfrom stages.table import NAMES, row\n[row(name).run for name in NAMES]"
    )

    assert not loaded & (HEAVY - {"cv2"})


def test_runtime_without_torch_can_segment() -> None:
    loaded = modules_after("import segpipe.runtime.segmenter, segpipe.runtime.backends.onnxruntime")

    assert not loaded & (OFFLINE | {"typer"})


@pytest.mark.parametrize("path", sorted((ROOT / "segpipe").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_segpipe_imports_nowhere_what_production_has_not(path: Path) -> None:
    assert [name for name in imports_of(path) if name.partition(".")[0] in OFFLINE] == []


@pytest.mark.parametrize("path", sorted((ROOT / "stages").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_stages_do_not_import_each_other(path: Path) -> None:
    own = path.relative_to(ROOT / "stages").parts[0].removesuffix(".py")
    others = STAGE_MODULES - {own}
    found = {name.split(".")[1] for name in imports_of(path) if name.startswith("stages.") and "." in name}

    assert own in {"pipeline", "demo", "cli"} or not found & others


def test_what_scripts_of_the_tests_import_exists() -> None:
    """They stand in strings, where neither mypy nor a move of modules finds them."""
    line = re.compile(r"^\s*from ((?:segpipe|stages|tests)[\w.]*) import (\w+)", re.MULTILINE)
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for module, name in line.findall(node.value):
                    found = hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
                    assert found, f"{path}: from {module} import {name}"
