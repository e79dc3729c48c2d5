"""Two actors of Ray beside two processes of `segpipe predict`, in turns on the same images.

    python -m benchmarks.batch pair --run runs/demo --images 500
    python -m benchmarks.batch pair --run runs/demo --images 2000 --side 128    # what Ray costs a small frame

The target is 0.9 where a frame takes 150 ms or more: large frames in tiles take the demo's network that long. A row is
the round, milliseconds of a process a frame, images/s of both ways, their ratio, how many milliseconds of a process
more a frame takes under Ray, and the load.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from segpipe import testing
from segpipe.media.images import write_image
from tests.children import SEGPIPE

_ROUNDS = 3
_WARM = 20  # images at both ends that do not count
_TARGET, _LEAST_MS = 0.9, 150


def pair(folder: Path, run: Path, images: int, side: int) -> bool:
    """Print a row a round; whether the median meets the target, or a frame takes too little for it to count."""
    for n in range(images):
        write_image(folder / f"in/{n % 2}/{n}.png", testing.make_frame(side, side, n)[0])
    ratios, frame_ms = [], list[float]()
    for number in range(_ROUNDS):
        ways = [_predicted, _batched] if number % 2 == 0 else [_batched, _predicted]
        speed = {way: _images_per_s(way(folder, run), folder / "out", images) for way in ways}
        ratios.append(speed[_batched] / speed[_predicted])
        ms = {way: 2000 / images_per_s for way, images_per_s in speed.items()}  # two processes
        frame_ms.append(ms[_predicted])
        print(
            f"| {number + 1} | {ms[_predicted]:.0f} | {speed[_predicted]:.2f} | {speed[_batched]:.2f} | "
            f"{ratios[-1]:.3f} | {ms[_batched] - ms[_predicted]:+.1f} | {os.getloadavg()[0]:.1f} |", flush=True,
        )  # fmt: skip
    return median(frame_ms) < _LEAST_MS or median(ratios) >= _TARGET


def _predicted(folder: Path, run: Path) -> "Sequence[subprocess.Popen[bytes]]":
    """Each with half of the images and half of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    found = []
    for half in (0, 1):
        words = ["predict", run, folder / f"in/{half}", "-o", folder / f"out/{half}", "--tiled", "--no-overlay"]
        found.append(_started(words, {*cores[half::2]}))
    return found


def _batched(folder: Path, run: Path) -> "Sequence[subprocess.Popen[bytes]]":
    words = ["batch", run, folder / "in", "-o", folder / "out", "--tiled"]
    return [_started([*words, "--actors", 2, "--address", "local", "--per-call", 4], os.sched_getaffinity(0))]


def _started(words: Sequence[object], cores: set[int]) -> "subprocess.Popen[bytes]":
    command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *SEGPIPE, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _images_per_s(processes: "Sequence[subprocess.Popen[bytes]]", out: Path, images: int) -> float:
    """By the times of the masks, once all have begun and before one has nothing left to do."""
    if codes := [code for process in processes if (code := process.wait())]:
        raise SystemExit(f"ended with {codes}")
    times = sorted(path.stat().st_mtime for path in out.rglob("masks/**/*.png"))
    assert len(times) == images, len(times)
    shutil.rmtree(out)
    return (images - 2 * _WARM) / (times[-_WARM] - times[_WARM])
