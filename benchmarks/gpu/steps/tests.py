"""pytest -m gpu, where a missing GPU is an error."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu.plan import Folders

_WHERE = ("tests/gpu", "tests/test_runtime_segmenter.py")  # all that is marked: collecting the rest imports for minutes
# Warnings of other versions of packages than ours, and test modules that need one which is not here, hide no result.
_COMMAND = (
    "-m", "gpu", "-v", "-W", "default", "--continue-on-collection-errors", "--timeout", "120", "-p", "no:cacheprovider",
)  # fmt: skip
_OUTCOME = re.compile(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Counts of the tests, and which ones failed; their output is in the log."""
    command = [sys.executable, "-m", "pytest", *_WHERE, *_COMMAND]
    environment = {**os.environ, "SEGPIPE_REQUIRE_GPU": "1"}
    counts: Counter[str] = Counter()
    failed: list[str] = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            if outcome := _OUTCOME.match(line):
                counts[outcome[2].lower()] += 1
                failed += [outcome[1]] if outcome[2] in {"FAILED", "ERROR"} else []
                yield {**counts, "failed tests": failed}
    assert counts["passed"], f"no test passed: {dict(counts)}"
    assert not failed, f"{len(failed)} tests failed"
    assert process.returncode in {0, 1}, f"pytest ended with {process.returncode}"  # 1: a module needs what is not here
