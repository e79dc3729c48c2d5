"""Ctrl-C in `predict`: it ends at once, leaves nothing half written, and the same command goes on."""

import _thread
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from segpipe import testing
from segpipe.media.images import write_image
from segpipe.predicting.job import Job
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter
from tests.children import PATIENCE_S, SEGPIPE, child, wait_until
from tests.interrupts import Interrupt
from tests.using import make_images, make_video, names_below

IMAGES = 60
FRAMES = 200
STRIDE = 499
"""One in so many of the places where an interrupt may come is tried: a prime, so that loops are not hit alike."""


def large_images(folder: Path) -> None:
    for number in range(IMAGES):
        write_image(folder / f"{number}.png", testing.make_frame(600, 800, number)[0])


def long_video(folder: Path) -> None:
    folder.mkdir()
    make_video(folder / "clip.mp4", FRAMES)


def interrupted(arguments: list[str], written: Callable[[], bool]) -> tuple[int, str]:
    """Exit code and stderr of a command that gets Ctrl-C once something was written."""
    with child(*SEGPIPE, *arguments) as process:
        wait_until(written, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, err


@pytest.mark.parametrize("make", [large_images, long_video])
def test_ctrl_c_twice_is_one_line_each_and_leaves_whole_files(
    run: Path, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    make(source)
    arguments = ["predict", str(run), str(source), "-o", str(out)]
    for _ in range(2):
        before = len([*out.rglob("*.png")])
        code, err = interrupted(arguments, lambda before=before: len([*out.rglob("*.png")]) > before + 3)  # type: ignore[misc]

        assert code == 130, err
        assert err.splitlines()[-1] == "interrupted; the same command goes on from here"
        assert "Traceback" not in err
        assert not [name for name in names_below(out) if "/." in name]
        assert not (out / "masks/clip").exists()

    with Segmenter.open(run) as segmenter:
        inputs = sorted(source.iterdir())
        done, broken = predict_files(segmenter, inputs, Job(out))
        predict_files(segmenter, inputs, Job(tmp_path / "fresh"))
    assert not broken
    assert any(item.skipped for item in done) or make is long_video
    assert names_below(out) == names_below(tmp_path / "fresh")
    for name in names_below(out):
        assert name.endswith(".mp4") or (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


# between `open` and `with` an interrupt leaves a file to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_anywhere_leaves_no_thread_and_nothing_half_written(run: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 2)
    make_video(tmp_path / "in/clip.mp4", 2)
    inputs = [*images, tmp_path / "in/clip.mp4"]
    tried = 0
    with Segmenter.open(run) as segmenter:
        predict_files(segmenter, inputs, tmp_path / "fresh")
        before = _thread._count()
        while True:
            out = tmp_path / f"out{tried}"
            interrupt = Interrupt(tried * STRIDE)
            with suppress(KeyboardInterrupt), interrupt:
                predict_files(segmenter, inputs, out)
            wait_until(lambda: _thread._count() <= before)

            names = [*names_below(out)] if out.exists() else []
            assert not [name for name in names if ".partial" in name or name.endswith("tmp")], interrupt.where
            predict_files(segmenter, inputs, out)
            assert names_below(out) == names_below(tmp_path / "fresh"), interrupt.where
            tried += 1
            if not interrupt.where:
                break
    assert tried > 5
