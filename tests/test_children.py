"""The tests' own children: they hear Ctrl-C however the tests were started, and end with their test."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.children import PATIENCE_S, ROOT, child, wait_until

_ASKS_CHILD = """
import signal, sys
import tests.conftest
from tests.children import child
with child(sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGINT))") as process:
    print(process.communicate(timeout=600)[0])
"""


def test_children_hear_ctrl_c_under_a_shell_that_ignores_it() -> None:
    """A shell starts background commands with SIGINT ignored, and so does nohup."""
    script = 'trap "" INT; exec "$@"'
    asked = subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-c", _ASKS_CHILD],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_S,
    )  # fmt: skip

    assert "default_int_handler" in asked.stdout


def test_children_and_theirs_end_with_a_test_that_fails(tmp_path: Path) -> None:
    grandchild = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grandchild!r}])"
    pid = tmp_path / "pid"
    with pytest.raises(RuntimeError), child(sys.executable, "-c", script) as process:
        wait_until(lambda: pid.exists() and bool(pid.read_text()), process)
        raise RuntimeError

    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not is_running(int(pid.read_text())))  # killed, it ends when the system gets to it


def is_running(process: int) -> bool:
    """Neither gone nor waiting to be noticed as dead."""
    try:
        return Path("/proc", str(process), "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
