"""`stream` and `tiled`: order, overlap, bounds, and errors in their place."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe import testing
from segpipe.errors import InputError
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.streaming import ordered
from segpipe.runtime.tiling import Tiling

FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})
BLENDED = 0.99
"""Share of pixels that tiling leaves as they are: it pads the frame's edge, and sums weights that round."""


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    with Segmenter.open(testing.make_run(tmp_path_factory.mktemp("tiny"))) as opened:
        yield opened


def frames(count: int) -> list[NDArray[np.uint8]]:
    return [testing.make_frame(24 + 4 * (n % 3), 32, n)[0] for n in range(count)]


def stream_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("segpipe-stream")]


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_a_stream_gives_the_masks_in_order(segmenter: Segmenter, workers: int, count: int) -> None:
    masks = list(segmenter.stream(frames(count), workers=workers))

    assert len(masks) == count
    for mask, frame in zip(masks, frames(count), strict=True):
        np.testing.assert_array_equal(mask, segmenter(frame))
    assert not stream_threads()


def test_slow_and_fast_items_keep_their_order_and_overlap() -> None:
    meeting = threading.Barrier(2, timeout=10)  # broken unless two items are in work at once

    def work(item: int) -> int:
        meeting.wait()
        time.sleep(0.02 if item % 2 == 0 else 0)
        return item

    assert list(ordered(work, range(10), 2)) == list(range(10))


def test_no_more_items_are_read_than_workers_and_one() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(100):
            read += 1
            yield item

    answers = ordered(lambda item: item, items(), 3)
    ahead = [read - answer for answer in answers]

    assert max(ahead) == 4


def test_a_bad_frame_is_refused_in_its_place(segmenter: Segmenter) -> None:
    source: list[Any] = [*frames(5), "not a frame", *frames(3)]
    seen: list[NDArray[Any]] = []

    with pytest.raises(InputError, match="str"):
        seen.extend(segmenter.stream(source))  # keeps what came before the error

    assert len(seen) == 5
    assert not stream_threads()
    assert len(list(segmenter.stream(frames(3)))) == 3


def test_an_error_of_the_callers_iterator_comes_after_the_masks_before_it(segmenter: Segmenter) -> None:
    def broken() -> Iterator[NDArray[np.uint8]]:
        yield from frames(5)
        raise OSError("the camera is gone")

    seen: list[NDArray[Any]] = []
    with pytest.raises(OSError, match="the camera is gone"):
        seen.extend(segmenter.stream(broken()))

    assert len(seen) == 5
    assert not stream_threads()


def test_leaving_a_stream_early_ends_its_threads(segmenter: Segmenter) -> None:
    stream = segmenter.stream(frames(50))
    next(stream)
    stream.close()  # type: ignore[attr-defined] # a generator behind the Iterator

    assert not stream_threads()


def test_ctrl_c_in_a_stream_leaves_at_once(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    script = f"""
import itertools, sys, threading
from segpipe import Segmenter, testing
segmenter = Segmenter.open({str(run)!r})
try:
    for number, mask in enumerate(segmenter.stream(itertools.repeat(testing.make_frame(64, 64)[0]))):
        if number == 5:
            print("running", flush=True)
except KeyboardInterrupt:
    frame = testing.make_frame(8, 8)[0]
    for thread in threading.enumerate()[1:]:
        thread.join(20)  # the signal may come between two frames: then its threads end a moment later
    print(segmenter(frame).shape, [t.name for t in threading.enumerate()], flush=True)
    sys.exit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"

    for _ in range(10):  # an interrupt inside a finaliser is dropped: press again
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
            break
    out, _ = process.communicate(timeout=5)

    assert process.returncode == 130
    assert out == "(8, 8) ['MainThread']\n"


def test_a_tiled_frame_is_what_the_whole_frame_gives(segmenter: Segmenter) -> None:
    frame = testing.make_frame(300, 500)[0]

    for overlap in (0.0, 0.25, 0.5):
        mask = segmenter.tiled(frame, Tiling(tile=(64, 96), overlap=overlap, batch=3))

        assert mask.shape == (300, 500)
        assert (mask == segmenter(frame)).mean() >= BLENDED


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (63, 95), (64, 96), (65, 97), (130, 40)], ids=str)
def test_tiling_takes_any_size(tmp_path: Path, size: tuple[int, int]) -> None:
    frame = testing.make_frame(*size)[0]

    with Segmenter.open(testing.make_run(tmp_path, FIXED)) as segmenter:
        mask = segmenter.tiled(frame)

    with Segmenter.open(testing.make_run(tmp_path / "whole")) as whole:
        differing = int((mask != whole(frame)).sum())
    assert mask.shape == size
    assert differing <= 2 * sum(size)  # the last score of a row may see padding instead of the frame


def test_tiling_reports_progress_tile_by_tile(segmenter: Segmenter) -> None:
    seen: list[tuple[int, int]] = []

    segmenter.tiled(
        testing.make_frame(128, 128)[0], Tiling(tile=(64, 64), overlap=0), progress=lambda *at: seen.append(at)
    )

    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_tiling_takes_frames_over_the_limit(segmenter: Segmenter) -> None:
    frame = testing.make_frame(64, 64)[0]
    segmenter.max_pixels = 1000
    try:
        with pytest.raises(InputError, match="tiled"):
            segmenter(frame)
        assert segmenter.tiled(frame).shape == (64, 64)
    finally:
        del segmenter.max_pixels


@pytest.mark.parametrize("fields", [{"overlap": 1.0}, {"overlap": -0.1}, {"batch": 0}, {"tile": (0, 5)}])
def test_a_tiling_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no tiling"):
        Tiling(**fields)


def test_tiles_that_leave_bars_are_refused(tmp_path: Path) -> None:
    letterbox = FIXED.model_copy(update={"fit": "letterbox"})

    with (
        Segmenter.open(testing.make_run(tmp_path, letterbox)) as segmenter,
        pytest.raises(InputError, match="aspect ratio"),
    ):
        segmenter.tiled(testing.make_frame(64, 64)[0], Tiling(tile=(64, 64)))
