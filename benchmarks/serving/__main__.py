"""Runs the parts that are named, or all; exit code 3 where a target is missed."""

import os
import sys
import tempfile
from pathlib import Path

from benchmarks.serving.page import RESULTS, Outcome, section, with_section
from benchmarks.serving.parts import PARTS
from segpipe.cores import usable_cores


def main(names: list[str]) -> int:
    """0 where all that was measured is as it should be."""
    if unknown := {*names} - {*PARTS}:
        sys.exit(f"no part is called {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    missed = 0
    for name in names or PARTS:
        load = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as folder:
            outcome: Outcome = PARTS[name](Path(folder))
        machine = f"{usable_cores()} cores, load average {load:.1f} before."
        text = section(name, f"{PARTS[name].__doc__} {machine}", outcome)
        print(text, flush=True)
        RESULTS.write_text(with_section(RESULTS.read_text() if RESULTS.is_file() else "", name, text))
        missed += not outcome.passed
    return 3 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
