"""`stream` and `tiled`: order, overlap, bounds, and errors in their place."""

import _thread
import atexit
import itertools
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
from tests.children import PATIENCE_S, child
from tests.interrupts import Interrupt

FIXED = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": (64, 96)})
BLENDED = 0.99
"""Share of pixels that tiling leaves as they are: it pads the frame's edge, and sums weights that round."""


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    with Segmenter.open(testing.make_run(tmp_path_factory.mktemp("tiny"))) as opened:
        yield opened


def frames(count: int) -> list[NDArray[np.uint8]]:
    return [testing.make_frame(24 + 4 * (n % 3), 32, n)[0] for n in range(count)]


def threads_end(before: int) -> bool:
    """Whether no more threads than before are left; those that said good-bye need a moment to go."""
    deadline = time.monotonic() + PATIENCE_S
    while _thread._count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    return _thread._count() <= before


@pytest.mark.parametrize("workers", [0, 1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_a_stream_gives_the_masks_in_order(segmenter: Segmenter, workers: int, count: int) -> None:
    before = _thread._count()
    masks = list(segmenter.stream(frames(count), workers=workers))

    assert len(masks) == count
    for mask, frame in zip(masks, frames(count), strict=True):
        np.testing.assert_array_equal(mask, segmenter(frame))
    assert threads_end(before)


def test_slow_and_fast_items_keep_their_order_and_overlap() -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE_S)  # broken unless two items are in work at once

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
    before = _thread._count()
    source: list[Any] = [*frames(5), 3, *frames(3)]
    seen: list[NDArray[Any]] = []

    with pytest.raises(InputError, match="got int"):
        seen.extend(segmenter.stream(source))  # keeps what came before the error

    assert len(seen) == 5
    assert threads_end(before)
    assert len(list(segmenter.stream(frames(3)))) == 3


def test_an_error_of_the_callers_iterator_comes_after_the_masks_before_it(segmenter: Segmenter) -> None:
    before = _thread._count()

    def broken() -> Iterator[NDArray[np.uint8]]:
        yield from frames(5)
        raise OSError("the camera is gone")

    seen: list[NDArray[Any]] = []
    with pytest.raises(OSError, match="the camera is gone"):
        seen.extend(segmenter.stream(broken()))

    assert len(seen) == 5
    assert threads_end(before)


def test_leaving_a_stream_early_ends_its_threads(segmenter: Segmenter) -> None:
    before = _thread._count()
    stream = segmenter.stream(frames(50))
    next(stream)
    stream.close()  # type: ignore[attr-defined] # a generator behind the Iterator

    assert threads_end(before)


def test_ctrl_c_at_any_place_of_a_stream_is_raised_and_ends_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", dropped.append)

    def work(item: int) -> int:
        time.sleep(0.002)  # the caller has to wait
        return item

    before = _thread._count()
    for number in itertools.count():
        interrupt = Interrupt(number)
        try:
            with interrupt:
                finished = list(ordered(work, range(5), 2))
        except KeyboardInterrupt:
            finished = []

        assert threads_end(before), interrupt.where
        assert not dropped, interrupt.where
        assert bool(finished) != bool(interrupt.where), interrupt.where
        if finished:
            break
    assert number > 50


def test_ctrl_c_in_a_stream_leaves_at_once(tmp_path: Path) -> None:
    run = testing.make_run(tmp_path)
    script = f"""
import _thread, itertools, sys, time
from segpipe import Segmenter, testing
segmenter = Segmenter.open({str(run)!r}, threads=2)
try:
    for number, mask in enumerate(segmenter.stream(itertools.repeat(testing.make_frame(64, 64)[0]))):
        if number == 5:
            print("running", flush=True)
except KeyboardInterrupt:
    print(segmenter(testing.make_frame(8, 8)[0]).shape, flush=True)
    while _thread._count():
        time.sleep(0.001)
    sys.exit(130)
"""
    with child(sys.executable, "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"

        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, out, err) == (130, "(8, 8)\n", "")


def test_python_ends_well_with_a_stream_that_nobody_closed(tmp_path: Path) -> None:
    script = f"""
import itertools
from segpipe import Segmenter, testing
stream = Segmenter.open({str(testing.make_run(tmp_path))!r}).stream(itertools.repeat(testing.make_frame(400, 400)[0]))
print(next(stream).shape)
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(400, 400)\n", "")


def test_a_stream_that_is_garbage_to_one_of_its_own_threads_ends() -> None:
    script = """
import _thread, gc, threading, time
from segpipe.runtime.streaming import ordered

class Camera: pass

dropped = threading.Event()

def work(item):
    if item > 0:
        dropped.wait()
        gc.collect()

def start():
    camera = Camera()
    camera.frames = range(9)
    camera.stream = ordered(work, (item for item in iter(camera.frames) if camera), 2)
    next(camera.stream)

gc.disable()
start()
dropped.set()
while _thread._count():
    time.sleep(0.001)
print("ended")
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ended\n", "")


def test_streams_leave_nothing_to_do_at_exit() -> None:
    before = atexit._ncallbacks()
    for _ in range(3):
        assert list(ordered(abs, [-1, 2], 2)) == [1, 2]

    assert atexit._ncallbacks() == before


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
    with pytest.raises(InputError, match="not a tiling"):
        Tiling(**fields)


def test_tiles_that_leave_bars_are_refused(tmp_path: Path) -> None:
    letterbox = FIXED.model_copy(update={"fit": "letterbox"})

    with (
        Segmenter.open(testing.make_run(tmp_path, letterbox)) as segmenter,
        pytest.raises(InputError, match="aspect ratio"),
    ):
        segmenter.tiled(testing.make_frame(64, 64)[0], Tiling(tile=(64, 64)))
