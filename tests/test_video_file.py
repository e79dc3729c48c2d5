"""Videos of results: H.264 that browsers play, in the colours that were written, or one line that says why not."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from segpipe.errors import InputError
from segpipe.media.mp4 import read_note
from segpipe.media.video_file import Writer, why_browsers_do_not_play
from tests.children import PATIENCE_S, ROOT
from tests.using import make_video, segpipe

pytestmark = pytest.mark.skipif(bool(why_browsers_do_not_play()), reason=why_browsers_do_not_play())

FRAMES = 5
COLOUR_LEVELS = 12
"""By which a plain colour may move: BT.601 read as BT.709 moves these by 20 and more."""
WITHOUT_PYAV = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "av":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from segpipe.cli import main
main()
"""


def written(path: Path, pictures: list[NDArray[np.uint8]], fps: float = 10.0) -> Path:
    with Writer(path, fps, path) as writer:
        for picture in pictures:
            writer.write(picture)
    return path


def read_back(path: Path) -> tuple[str, str, list[NDArray[np.uint8]]]:
    """Codec, pixel format and pictures."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(stream)]
        return stream.codec_context.name, stream.codec_context.pix_fmt or "", pictures


def test_a_video_of_results_is_what_browsers_play_and_begins_with_its_index(run: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", FRAMES)

    done = segpipe("predict", run, tmp_path / "clip.mp4", "-o", tmp_path / "out")

    video = tmp_path / "out/videos/clip.mp4"
    codec, pixels, pictures = read_back(video)
    assert done.returncode == 0, done.stderr
    assert b"browsers" not in done.stderr
    assert (codec, pixels, len(pictures), pictures[0].shape) == ("h264", "yuv420p", FRAMES, (64, 192, 3))
    content = video.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    with video.open("rb") as file:
        assert read_note(file), "the record at its end"


@pytest.mark.parametrize(("height", "width"), [(1, 1), (33, 47), (34, 47), (33, 48)])
def test_pictures_with_odd_sides_lose_no_pixel(tmp_path: Path, height: int, width: int) -> None:
    picture = np.full((height, width, 3), (200, 30, 30), np.uint8)

    _, _, pictures = read_back(written(tmp_path / "odd.mp4", [picture] * FRAMES))

    assert len(pictures) == FRAMES
    assert pictures[0].shape == (height + height % 2, width + width % 2, 3)
    np.testing.assert_allclose(pictures[-1][:height, :width].astype(int), picture, atol=COLOUR_LEVELS)


@pytest.mark.parametrize(
    "fps", [0.0, 1e-12, 0.0001, 23.976, 29.97002997002997, 90_000.0, 1e12, float("inf"), float("nan")]
)
def test_every_rate_that_a_source_may_say_keeps_every_picture(tmp_path: Path, fps: float) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)

    assert len(read_back(written(tmp_path / "rate.mp4", [picture] * FRAMES, fps))[2]) == FRAMES


def test_a_picture_larger_than_h264_can_be_says_how_to_do_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"videos/clip\.mp4 would have pictures of 16x20000.*--no-overlay"):
        Writer(tmp_path / "part.mp4", 10, Path("videos/clip.mp4")).write(np.zeros((16, 20_000, 3), np.uint8))

    assert not list(tmp_path.iterdir())


def test_without_pyav_the_video_is_mpeg_4_and_one_line_says_so(run: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", FRAMES)
    command = [sys.executable, "-c", WITHOUT_PYAV, "predict", str(run), str(tmp_path / "clip.mp4")]

    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=PATIENCE_S,
    )

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "browsers" in line and "segpipe[video]" in line]
    assert read_back(tmp_path / "out/videos/clip.mp4")[0] == "mpeg4"
    assert len(read_back(tmp_path / "out/videos/clip.mp4")[2]) == FRAMES
