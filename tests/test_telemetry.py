"""No library that segpipe loads leaves anything in the user's folders or calls home."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest

from segpipe.telemetry import SWITCH
from tests.children import PATIENCE_S, ROOT
from tests.test_imports import imports_of

BY_NAME = {"openvino", "tensorrt", "tensorrt_rtx", "timm"}
"""Imported by a name in a string."""
OWN = {"segpipe", "stages", "tests", "benchmarks"}
FOR_A_CLUSTER = {"ray"}
"""Opens sockets when it is imported, which `batch --address` alone does."""
IN_CI = {"CI", "TF_BUILD", "JENKINS_URL"}
"""openvino_telemetry does nothing where one of these is set."""
FONTS = "cache/matplotlib/fontlist-"
"""matplotlib's list of the fonts it found: a cache, with nothing about the user."""
USE_ALL = """
import sys
from importlib import import_module
import stages
for name in sys.stdin.read().split():
    import_module(name)
    print(name, flush=True)
import onnxruntime, torch
from segpipe import testing
onnxruntime.InferenceSession(testing.make_onnx(testing.CONTRACT), providers=["CPUExecutionProvider"])
torch.nn.Conv2d(3, 4, 3)(torch.zeros(1, 3, 8, 8))
"""


def libraries() -> list[str]:
    """Every package that a module of ours imports and that is installed here."""
    files = [path for half in ("segpipe", "stages") for path in (ROOT / half).rglob("*.py")]
    named = {name.partition(".")[0] for path in files for name in imports_of(path)}
    return sorted(
        name
        for name in (named | BY_NAME) - OWN - FOR_A_CLUSTER - sys.stdlib_module_names
        if find_spec(name) is not None
    )


def call(code: str, home: Path, more: Mapping[str, str], text: str = "") -> subprocess.CompletedProcess[str]:
    """In a process whose home is empty and which dies at its first internet socket."""
    unset = {name for name in os.environ if "TELEMETRY" in name or "CACHE" in name} | IN_CI
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "XDG_CONFIG_HOME": str(home / "config")}
    command = [sys.executable, "-m", "tests.no_sockets", code]
    environment = {**kept, **folders, **more}
    return subprocess.run(
        command, env=environment, input=text, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def left_in(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_no_library_keeps_anything_or_calls_anybody(tmp_path: Path) -> None:
    wanted = libraries()

    done = call(USE_ALL, tmp_path, {}, "\n".join(wanted))

    assert done.stdout.split() == wanted, f"the one after the last of these: {done.stderr}"
    assert done.returncode == 0, done.stderr
    assert [path for path in left_in(tmp_path) if not path.startswith(FONTS)] == []


def test_a_socket_would_be_noticed(tmp_path: Path) -> None:
    done = call("import socket\nsocket.socket()", tmp_path, {})

    assert done.returncode == -signal.SIGSYS


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize(("asked", "kept"), [({}, False), ({SWITCH: "1"}, True)])
def test_openvino_tells_nobody_that_it_is_imported(tmp_path: Path, asked: dict[str, str], kept: bool) -> None:
    done = call("import segpipe, openvino", tmp_path, asked)

    assert (done.returncode != 0 or left_in(tmp_path) != []) == kept, done.stderr


def test_our_variable_switches_telemetry_on(tmp_path: Path) -> None:
    code = (
        "import stages, os\nprint(os.environ.get('ORT_DISABLE_TELEMETRY'), os.environ.get('HF_HUB_DISABLE_TELEMETRY'))"
    )

    off, on = call(code, tmp_path, {}), call(code, tmp_path, {SWITCH: "1"})

    assert off.stdout.split() == ["1", "1"]
    assert on.stdout.split() == ["None", "None"]


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    done = call(
        "import stages, os\nprint(os.environ['ORT_DISABLE_TELEMETRY'])", tmp_path, {"ORT_DISABLE_TELEMETRY": "0"}
    )

    assert done.stdout.split() == ["0"]
