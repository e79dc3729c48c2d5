"""Throughput of 1, 2, 4 and 8 threads on one segmenter, and that nobody's mask is another's."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import finished_demo, gpu_backends
from segpipe.runtime.segmenter import Segmenter

_FRAMES, _SIZE = 400, (1024, 2048)


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """Frames a second by number of threads, for every GPU backend of the demo run."""
    path, found = finished_demo(folders), {}
    for backend in gpu_backends(path):
        found[backend] = _measured(path, backend)
        yield found


def _measured(path: Path, backend: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    frames = [rng.integers(0, 256, (*_SIZE, 3), np.uint8) for _ in range(8)]
    with Segmenter.open(path, backend, allow_unvalidated=True) as segmenter:
        alone = [segmenter(frame) for frame in frames]
        rates = {}
        for threads in (1, 2, 4, 8):
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(segmenter, frames * 4))  # every lane warm, every graph captured
                started = time.perf_counter()
                masks = list(pool.map(lambda n: segmenter(frames[n % len(frames)]), range(_FRAMES)))
                rates[threads] = round(_FRAMES / (time.perf_counter() - started), 1)
            wrong = sum(not np.array_equal(mask, alone[n % len(frames)]) for n, mask in enumerate(masks))
            assert wrong == 0, f"{wrong} masks of {threads} threads are not those of one"
    return {"frames_per_s": rates, "four_threads_over_one": round(rates[4] / rates[1], 2)}
