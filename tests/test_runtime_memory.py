"""Memory of the runtime: nothing grows with the number of frames, of openings, or with the size of a tiled frame."""

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from segpipe import testing
from segpipe.runtime.segmenter import Segmenter

GROWTH_BYTES = 20 << 20
"""What allocators may keep; a leak of one 100x100 mask a frame would be 3 MB in 300 frames, of one frame 9 MB."""
HUGE = 20_000
HUGE_LIMIT_BYTES = 3 << 30


@pytest.fixture
def segmenter(run: Path) -> Iterator[Segmenter]:
    with Segmenter.open(run) as opened:
        yield opened


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def grown_over(segmenter: Segmenter, frames: int, settle: int) -> int:
    """Bytes of memory gained after the first `settle` frames, of changing sizes."""
    sizes = np.random.default_rng(0).integers(16, 400, (frames, 2))
    source = np.zeros((400, 400, 3), np.uint8)
    start = 0
    for number, (height, width) in enumerate(sizes):
        if number == settle:
            start = resident_bytes()
        segmenter(source[:height, :width])
    return resident_bytes() - start


def test_300_frames_of_changing_sizes_do_not_grow_memory(segmenter: Segmenter) -> None:
    assert grown_over(segmenter, 300, 100) < GROWTH_BYTES


@pytest.mark.soak
def test_5000_frames_of_changing_sizes_do_not_grow_memory(segmenter: Segmenter) -> None:
    assert grown_over(segmenter, 5000, 200) < GROWTH_BYTES


def test_opening_and_closing_200_times_leaks_nothing(run: Path) -> None:
    frame = testing.make_frame(32, 32)[0]

    def once() -> None:
        with Segmenter.open(run, threads=1) as segmenter:
            segmenter(frame)

    for _ in range(40):
        once()
    start, threads = resident_bytes(), threading.active_count()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        once()

    assert resident_bytes() - start < GROWTH_BYTES
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def peak_bytes() -> int:
    """The greatest resident size since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


@pytest.mark.soak
def test_20000_x_20000_pixels_stay_under_3_gigabytes(tmp_path: Path) -> None:
    row = testing.make_frame(HUGE, 1000, 1)[0]
    frame = np.tile(row, (1, HUGE // 1000, 1))
    small = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (512, 1024)})
    seen: list[tuple[int, int]] = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here

    with Segmenter.open(testing.make_run(tmp_path, small)) as segmenter:
        mask = segmenter.tiled(frame, progress=lambda done, total: seen.append((done, total)))

    assert peak_bytes() < HUGE_LIMIT_BYTES
    assert mask.shape == (HUGE, HUGE)
    assert seen[-1][0] == seen[-1][1] == len(seen)
    np.testing.assert_array_equal(mask[4000:5000, 3000:4000], mask[4000:5000, 13000:14000])
