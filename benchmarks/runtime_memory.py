"""Resident memory over thousands of frames of changing sizes: `python benchmarks/runtime_memory.py RUN`.

Writes results/runtime_memory.json.
"""

import argparse
import gc
import json
import os
from pathlib import Path

import numpy as np

from segpipe.runtime.segmenter import Segmenter
from stages.benchmark.machine import machine

RESULTS = Path(__file__).parent / "results" / "runtime_memory.json"
SETTLED = 200  # frames after which nothing may grow
EVERY = 100


def resident_mb() -> float:
    """Megabytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def main() -> None:
    """Segment, and write the curve down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sizes = np.random.default_rng(0).integers(16, 500, (options.frames, 2))
    curve = {}
    with Segmenter.open(options.run, allow_unvalidated=True) as segmenter:
        source = np.zeros((500, 500, segmenter.contract.channels), segmenter.contract.dtype)
        for number, (height, width) in enumerate(sizes):
            segmenter(source[:height, :width])
            if (number + 1) % EVERY == 0:
                curve[number + 1] = resident_mb()
        described = segmenter.describe()
    growth = round(max(mb for frame, mb in curve.items() if frame >= SETTLED) - curve[SETTLED], 1)
    report = {
        "machine": machine().model_dump(),
        "backend": described["backend"],
        "growth_mb": growth,
        "resident_mb": curve,
    }
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
