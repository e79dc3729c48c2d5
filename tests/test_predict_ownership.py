"""`segpipe predict` touches nothing of others: records say what is segpipe's, names never do."""

import logging
import resource
from pathlib import Path

import numpy as np
import pytest

from segpipe import testing
from segpipe.errors import InputError, StorageError
from segpipe.media.images import write_image
from segpipe.predicting.job import Job
from segpipe.predicting.ownership import STAMP
from segpipe.predicting.predict import predict_files
from segpipe.predicting.video import count_frames
from segpipe.runtime.segmenter import Segmenter
from tests.using import Ended, lines, make_images, make_video, names_below, segpipe

FRAMES = 6
TOO_SMALL_BYTES = 2_000  # for a video of so many frames, enough for a mask


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.make_run(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture
def segmenter(run: Path) -> Segmenter:
    return Segmenter.open(run)


def labels(path: Path) -> bytes:
    """A mask that a person made."""
    write_image(path, np.full((40, 60), 3, np.uint8))
    return path.read_bytes()


def test_masks_made_by_hand_are_neither_replaced_nor_removed(run: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "ds/images", 3)
    kept = [labels(tmp_path / f"ds/masks/image{number}.png") for number in (0, 1)]
    images[1].write_bytes(b"no picture")

    for options in ([], ["--force"]):
        result = segpipe("predict", run, tmp_path / "ds/images", "-o", tmp_path / "ds", *options)

        said = [line for line in lines(result) if "is not segpipe's" in line]
        assert result.returncode == 1
        assert ["ds/masks/image0.png" in line for line in said] == [True, False]
        assert "name another folder with --out, or move it" in said[0]
    assert [(tmp_path / f"ds/masks/image{number}.png").read_bytes() for number in (0, 1)] == kept
    assert (tmp_path / "ds/masks/image2.png").exists()
    assert not (tmp_path / "ds/overlays/image0.png").exists()


def test_a_folder_that_an_older_segpipe_stamped_is_made_again(segmenter: Segmenter, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 1)
    make_video(tmp_path / "in/clip.mp4", 2)
    old = [tmp_path / "out" / name for name in ("masks/image0.png", "masks/clip/000000.png", "overlays/image0.png")]
    for path in old:
        labels(path)
    (tmp_path / "out" / STAMP).write_text("{}")

    done, broken = predict_files(segmenter, [*images, tmp_path / "in/clip.mp4"], tmp_path / "out")

    assert (len(done), broken) == (2, [])


def test_an_input_behind_a_link_into_the_output_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    (mask,) = make_images(tmp_path / "out/masks", 1)
    before = mask.read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/image0.png").symlink_to(mask)

    with pytest.raises(InputError, match="lies where masks are written"):
        predict_files(segmenter, [tmp_path / "in/image0.png"], tmp_path / "out")

    assert mask.read_bytes() == before


def test_a_broken_input_removes_nothing_that_was_made_of_another(segmenter: Segmenter, tmp_path: Path) -> None:
    good, other = (make_images(tmp_path / folder, 1)[0] for folder in ("a", "b"))
    make_video(tmp_path / "a/clip.mp4", 2)
    predict_files(segmenter, [good, tmp_path / "a/clip.mp4"], tmp_path / "out")
    before = names_below(tmp_path / "out")
    for path in (other, tmp_path / "b/clip.mp4"):
        path.write_bytes(b"broken")

    _, broken = predict_files(segmenter, [other, tmp_path / "b/clip.mp4"], tmp_path / "out")

    assert len(broken) == 2
    assert "removed" not in str(broken)
    assert names_below(tmp_path / "out") == before


def test_nothing_of_another_source_stays_beside_a_new_mask(
    segmenter: Segmenter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (image,), clip, out = make_images(tmp_path / "in", 1), tmp_path / "in/clip.mp4", tmp_path / "out"
    make_video(clip, 3)
    predict_files(segmenter, [image, clip], Job(out, colour=True))
    write_image(image, testing.make_frame(40, 60, 9)[0])
    make_video(clip, 2)

    with caplog.at_level(logging.INFO):
        _, broken = predict_files(segmenter, [image, clip], Job(out, overlay=False))

    assert broken == []
    assert names_below(out) == [
        "masks/clip/.segpipe.json",
        "masks/clip/000000.png",
        "masks/clip/000001.png",
        "masks/image0.png",
    ]
    assert "overlays/image0.png: removed, it was made of another image0.png" in caplog.text
    assert "videos/clip.mp4: removed" in caplog.text


@pytest.mark.parametrize("content", ["whole", "broken"])
@pytest.mark.parametrize("place", ["masks/clip/000000.png", "videos/clip.mp4", "colours/clip/000000.png"])
def test_frames_and_videos_of_others_are_neither_replaced_nor_removed(
    segmenter: Segmenter, tmp_path: Path, place: str, content: str
) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, 2)
    theirs = out / place
    if theirs.suffix == ".mp4":
        theirs.parent.mkdir(parents=True)
        make_video(theirs, 4)
    else:
        labels(theirs)
    before = theirs.read_bytes()
    if content == "broken":
        clip.write_bytes(b"no video")

    done, broken = predict_files(segmenter, [clip], Job(out, colour=True, force=True))

    assert not done
    assert "is not segpipe's" in str(broken[0])
    assert names_below(out) == [place]
    assert theirs.read_bytes() == before


def test_a_file_that_comes_into_the_folder_during_the_work_stays(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, 3)
    predict_files(segmenter, [clip], out)
    notes = out / "masks/clip/notes.txt"

    def meanwhile(_: int, /, *, skipped: bool = False) -> None:
        notes.write_text("mine")

    done, broken = predict_files(segmenter, [clip], Job(out, force=True), meanwhile)

    assert not done
    assert "masks/clip/notes.txt is not segpipe's" in str(broken[0])
    assert notes.read_text() == "mine"
    assert not [name for name in names_below(out) if ".partial" in name or ".lock" in name]


def test_a_second_predict_of_a_video_is_refused_while_the_first_works(
    segmenter: Segmenter, run: Path, tmp_path: Path
) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, FRAMES)
    second: list[Ended] = []

    def meanwhile(_: int, /, *, skipped: bool = False) -> None:
        if not second:
            second.append(segpipe("predict", run, clip, "-o", out))

    done, broken = predict_files(segmenter, [clip], out, meanwhile)

    assert (len(done), broken) == (1, [])
    assert second[0].returncode == 1
    assert b"masks/clip is being made by another segpipe" in second[0].stderr
    assert b"Traceback" not in second[0].stderr
    assert len([*(out / "masks/clip").glob("*.png")]) == count_frames(out / "videos/clip.mp4") == FRAMES
    assert not [name for name in names_below(out) if ".partial" in name or ".lock" in name]


def test_a_lock_that_a_kill_left_behind_holds_nobody_up(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, 2)
    locks: list[Path] = []
    predict_files(segmenter, [clip], out, lambda _, **skipped: locks.extend((out / "masks").glob(".*.lock")))
    locks[0].touch()

    done, broken = predict_files(segmenter, [clip], Job(out, force=True))

    assert (len(done), broken) == (1, [])
    assert not locks[0].exists()


def test_a_video_that_the_disk_cut_off_is_not_published(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, FRAMES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (TOO_SMALL_BYTES, before[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*videos/clip\.mp4: (File too large|of 6 frames 0)"):
            predict_files(segmenter, [clip], out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert names_below(out) == []


@pytest.mark.parametrize("suffix", [".partial", ".partial.mp4", ".lock"])
def test_links_at_hidden_names_are_removed_and_not_followed(segmenter: Segmenter, tmp_path: Path, suffix: str) -> None:
    clip, out, precious = tmp_path / "clip.mp4", tmp_path / "out", tmp_path / "precious"
    make_video(clip, 2)
    hidden: list[Path] = []
    predict_files(segmenter, [clip], out, lambda _, **skipped: hidden.extend(out.glob("*/.*")))
    place = next(path for path in hidden if path.name.endswith(suffix))
    precious.mkdir()
    (precious / "file").write_text("mine")
    place.symlink_to(precious)

    done, broken = predict_files(segmenter, [clip], Job(out, force=True))

    assert (len(done), broken) == (1, [])
    assert (precious / "file").read_text() == "mine"
    assert not place.is_symlink()
