"""How long it takes to paste a hundred things into a frame of 1024x2048, on one core: `python -m benchmarks.pasting`.

Boxes of 60 to 420 pixels a side, masks at stride 4 of a network of 512x1024. Prints JSON; the target is 12 ms.
"""

import json
import os
import time
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract
from segpipe.runtime.request import Outputs
from segpipe.tasks import task_of

THINGS, ROUNDS, TARGET_MS = 100, 60, 12.0
CONTRACT = InstanceContract(network_size=(512, 1024), classes=("ground", "thing"), things=("thing",), top=THINGS)


def main() -> None:
    """All rows of one frame, decoded again and again."""
    cv2.setNumThreads(1)
    rng, placement = np.random.default_rng(0), CONTRACT.place(1024, 2048)
    sides = rng.integers(30, (210, 160), (THINGS, 2))
    corners = rng.uniform(0, 1, (THINGS, 2)) * (np.array([1024, 512]) - sides)
    tensors: dict[str, NDArray[Any]] = {
        "boxes": np.concatenate([corners, corners + sides], 1).astype(np.float32),
        "scores": np.full(THINGS, 0.9, np.float32),
        "labels": np.zeros(THINGS, np.int64),
        "masks": rng.standard_normal((THINGS, 128, 256)).astype(np.float32),
    }
    task, taken = task_of(CONTRACT), []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        task.decode(tensors, placement, Outputs())
        taken.append(1e3 * (time.perf_counter() - start))
    median = float(np.median(taken))
    print(json.dumps({
        "things": THINGS, "frame": [1024, 2048], "median_ms": round(median, 2), "best_ms": round(min(taken), 2),
        "target_ms": TARGET_MS, "met": median <= TARGET_MS, "load": round(os.getloadavg()[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
