"""`segpipe predict` of videos: options, and nothing published as whole that is not."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from segpipe import draw, testing
from segpipe.media.images import read_image
from segpipe.predicting.job import Job
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter
from tests.using import make_images, make_video, names_below, segpipe

FRAMES = 20
CODECS = {"avi": "MJPG", "mkv": "mp4v", "webm": "VP80", "mp4": "mp4v"}


def test_a_video_heeds_the_options_of_images(run: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 3)

    plain = segpipe("predict", run, tmp_path / "clip.mp4", "-o", tmp_path / "out", "--no-overlay", "--colour")

    assert plain.returncode == 0, plain.stderr
    names = [f"{number:06d}.png" for number in range(3)]
    assert names_below(tmp_path / "out") == [
        *(f"colours/clip/{name}" for name in names),
        "masks/clip/.segpipe.json",
        *(f"masks/clip/{name}" for name in names),
    ]
    with Segmenter.open(run) as segmenter:
        for name in names:
            mask = read_image(tmp_path / "out/masks/clip" / name)[:, :, 0]
            colours = read_image(tmp_path / "out/colours/clip" / name)
            np.testing.assert_array_equal(colours, draw.colourise(mask, segmenter.palette))


def test_a_tiled_video_has_the_masks_of_tiled_frames(tmp_path: Path) -> None:
    contract = testing.CONTRACT.model_copy(update={"network_size": (32, 32), "fit": "stretch"})
    make_video(tmp_path / "clip.mp4", 2)
    capture = cv2.VideoCapture(str(tmp_path / "clip.mp4"))
    frame = cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    with Segmenter.open(testing.make_run(tmp_path / "run", contract)) as segmenter:
        predict_files(segmenter, [tmp_path / "clip.mp4"], Job(tmp_path / "out", tiled=True))
        whole, tiled = segmenter(frame), segmenter.tiled(frame)

    mask = read_image(tmp_path / "out/masks/clip/000000.png")[:, :, 0]
    np.testing.assert_array_equal(mask, tiled)
    assert (mask != whole).any()


def test_a_tiled_raw_stream_has_the_masks_of_tiled_frames(tmp_path: Path) -> None:
    contract = testing.CONTRACT.model_copy(update={"network_size": (32, 32), "fit": "stretch"})
    run, frame = testing.make_run(tmp_path / "run", contract), testing.make_frame(64, 96)[0]

    result = segpipe("predict", run, "-", "-o", "-", "--size", 64, 96, "--tiled", data=frame.tobytes())

    assert result.returncode == 0, result.stderr
    with Segmenter.open(run) as segmenter:
        assert result.stdout == segmenter.tiled(frame).tobytes()


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("suffix", list(CODECS))
def test_a_video_that_is_cut_off_is_published_nowhere(run: Path, tmp_path: Path, suffix: str, share: float) -> None:
    clip, out = tmp_path / f"clip.{suffix}", tmp_path / "out"
    make_video(clip, FRAMES, CODECS[suffix])
    images = make_images(tmp_path / "in", 1)
    with Segmenter.open(run) as segmenter:
        done, broken = predict_files(segmenter, [clip, *images], out)
        assert (len(done), broken) == (2, [])
        assert len(list((out / "masks/clip").glob("*.png"))) == FRAMES
        content = clip.read_bytes()
        clip.write_bytes(content[: int(share * len(content))])

        done, broken = predict_files(segmenter, [clip, *images], out)

    assert [item.image for item in done] == images
    assert str(clip) in str(broken[0])
    assert names_below(out) == ["masks/image0.png", "overlays/image0.png"]


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mp4"])
def test_frames_that_cannot_be_decoded_are_missed(run: Path, tmp_path: Path, suffix: str) -> None:
    clip = tmp_path / f"clip.{suffix}"
    make_video(clip, FRAMES, CODECS[suffix])
    content = bytearray(clip.read_bytes())
    end = content.rfind(b"moov") if suffix == "mp4" else len(content)  # an MP4's index is whole, or it does not open
    first, last = end // 4, end * 3 // 4
    content[first:last] = bytes(last - first)  # as downloads look that were set up and then ended
    clip.write_bytes(content)

    result = segpipe("predict", run, clip, "-o", tmp_path / "out")

    assert result.returncode == 1
    assert b"its container counts 20" in result.stderr
    assert names_below(tmp_path / "out") == []


@pytest.mark.parametrize("hidden", [0, 5, 15])
def test_frames_that_an_edit_list_hides_are_not_missed(run: Path, tmp_path: Path, hidden: int) -> None:
    clip = tmp_path / "clip.mp4"
    make_video(clip, FRAMES)
    content = bytearray(clip.read_bytes())
    edit = content.index(b"elst") + 16  # the begin of the first edit, in units of the track
    (units_per_s,) = struct.unpack_from(">I", content, content.index(b"mdhd") + 16)
    struct.pack_into(">i", content, edit, hidden * units_per_s // 10)
    clip.write_bytes(content)

    with Segmenter.open(run) as segmenter:
        done, broken = predict_files(segmenter, [clip], tmp_path / "out")

    assert (broken, [item.frames for item in done]) == ([], [FRAMES - hidden])


def test_frames_over_the_limit_are_refused_before_they_are_decoded(run: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 2)
    with Segmenter.open(run) as segmenter:
        done, broken = predict_files(segmenter, [tmp_path / "clip.mp4"], Job(tmp_path / "out", max_pixels=96 * 64 - 1))

    assert not done
    assert "clip.mp4 is 64x96, more than" in str(broken[0])


def test_a_folder_with_files_of_others_is_not_replaced(run: Path, tmp_path: Path) -> None:
    make_video(tmp_path / "clip.mp4", 2)
    (tmp_path / "out/masks/clip").mkdir(parents=True)
    (tmp_path / "out/masks/clip/notes.txt").write_text("mine")

    result = segpipe("predict", run, tmp_path / "clip.mp4", "-o", tmp_path / "out")

    assert result.returncode == 1
    assert b"masks/clip/notes.txt is not segpipe's" in result.stderr
    assert (tmp_path / "out/masks/clip/notes.txt").read_text() == "mine"
