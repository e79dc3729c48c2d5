"""pytest -m gpu, where a missing GPU is an error."""

import os
import re
import subprocess
import sys
from typing import Any

from benchmarks.gpu.plan import Folders


def run(folders: Folders) -> dict[str, Any]:
    """Counts of the tests; their output is in the log."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "SEGPIPE_REQUIRE_GPU": "1"}
    result = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)
    print(result.stdout)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", result.stdout)}
    assert result.returncode == 0, f"pytest ended with {result.returncode}: {counts}"
    return counts
