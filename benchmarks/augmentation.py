"""Images a second that one core augments at 360x480: decode, warp, colours, normalisation, as a loader worker does.

    python -m benchmarks.augmentation [--images FOLDER] [--seconds 5]

Without a folder of 480x360 images it writes JPEGs of synthetic frames to a temporary one.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segpipe.contract.schema import Contract
from segpipe.media.images import SUFFIXES, read_image
from stages.config.root import AugmentConfig, ShapesData
from stages.data.shapes import ShapesSplit
from stages.train.augment import Augmentation, augment

SIZE = (360, 480)
CONTRACT = Contract(network_size=SIZE, classes=tuple(f"class{n}" for n in range(11)))
SETTINGS = {
    "default": AugmentConfig(),
    "all": AugmentConfig(scale_range=(0.5, 2.0), flip_vertical=True, rotation_degrees=10, hue=10, blur=0.3, erase=0.3),
}


def main() -> None:
    """Print a line a setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(f"one core of {platform.machine()}, OpenCV {cv2.__version__}; per second of CPU time, then of wall time")
    with tempfile.TemporaryDirectory() as folder:
        files = _files(arguments.images or _written(Path(folder)))
        labels = ShapesSplit(ShapesData(kind="shapes", height=SIZE[0], width=SIZE[1]), "train").sample(0)[1]
        _report("decode only", lambda n: read_image(files[n % len(files)]), arguments.seconds)
        for name, config in SETTINGS.items():
            how = Augmentation(SIZE, config)

            def step(number: int, how: Augmentation = how) -> Any:
                rng = np.random.default_rng(number)
                return augment(read_image(files[number % len(files)]), labels, CONTRACT, how, rng)

            _report(f"decode and augmentation '{name}'", step, arguments.seconds)


def _report(name: str, step: Callable[[int], Any], seconds: float) -> None:
    for number in range(10):
        step(number)
    count, cpu, wall = 0, time.process_time(), time.perf_counter()
    while time.process_time() - cpu < seconds:
        step(count)
        count += 1
    print(f"{name:34s} {count / (time.process_time() - cpu):6.0f} {count / (time.perf_counter() - wall):6.0f}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:100]


def _written(folder: Path) -> Path:
    frames = ShapesSplit(ShapesData(kind="shapes", height=SIZE[0], width=SIZE[1]), "train")
    for number in range(40):
        picture = np.ascontiguousarray(frames.sample(number)[0][:, :, ::-1])
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 94])[1].tobytes()
        (folder / f"{number}.jpg").write_bytes(data)
    return folder


if __name__ == "__main__":
    main()
