"""Threads are counted by the cores that a process may use, not by those that the machine has."""

import os
import subprocess
import sys

from segpipe.cores import usable_cores
from tests.children import ROOT

PINNED = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from segpipe.cores import usable_cores
print(usable_cores())
"""


def test_a_process_that_is_bound_to_one_core_counts_one() -> None:
    done = subprocess.run([sys.executable, "-c", PINNED], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout.split() == ["1"]
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_nobody_else_counts_cores() -> None:
    """But for the machine's load, which is a share of all its cores."""
    files = [path for package in ("segpipe", "stages") for path in (ROOT / package).rglob("*.py")]
    counting = {path.name for path in files if "cpu_count" in path.read_text() or "getaffinity" in path.read_text()}

    assert counting == {"cores.py", "others.py"}
