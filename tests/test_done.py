"""What `predict` counts as done: only what its own record proves."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segpipe import testing
from segpipe.errors import InputError, SegpipeError
from segpipe.media.images import encode_png, read_image, write_image
from segpipe.predicting.done import Origin, Source, is_done, seal
from segpipe.predicting.job import Job, Predicted
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter
from tests.using import make_images, make_video, names_below

OTHER = testing.CONTRACT.model_copy(update={"network_size": (32, 32), "fit": "stretch"})


@pytest.fixture
def segmenter(run: Path) -> Segmenter:
    return Segmenter.open(run)


def skipped(answers: tuple[list[Predicted], list[SegpipeError]]) -> list[bool]:
    return [item.skipped for item in answers[0]]


def test_masks_of_another_artifact_are_not_done_however_the_work_was_ended(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    images, out = make_images(tmp_path / "in", 4), tmp_path / "out"
    predict_files(segmenter, images, out)
    with Segmenter.open(testing.make_run(tmp_path / "other", OTHER)) as other:
        predict_files(other, images[:1], out)  # what a kill leaves: one is the new artifact's
        again = predict_files(other, images, out)

        assert skipped(again) == [True, False, False, False]
        for item in again[0]:
            np.testing.assert_array_equal(read_image(item.mask)[:, :, 0], other(read_image(item.image)))


def test_an_older_file_of_the_same_name_is_another_source(segmenter: Segmenter, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path / "in", 1)
    predict_files(segmenter, [image], tmp_path / "out")
    write_image(image, testing.make_frame(40, 60, 7)[0])
    os.utime(image, (1, 1))

    assert skipped(predict_files(segmenter, [image], tmp_path / "out")) == [False]


def test_a_source_that_was_only_touched_or_moved_stays_done(segmenter: Segmenter, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path / "in", 1)
    predict_files(segmenter, [image], tmp_path / "out")
    moved = Path(shutil.move(image, tmp_path / image.name))
    os.utime(moved)

    assert skipped(predict_files(segmenter, [moved], tmp_path / "out")) == [True]


@pytest.mark.parametrize("change", [{"tiled": True}, {"overlay": True}, {"colour": True}, {"force": True}], ids=str)
def test_another_option_makes_again(segmenter: Segmenter, tmp_path: Path, change: dict[str, bool]) -> None:
    images, out = make_images(tmp_path / "in", 2), tmp_path / "out"
    predict_files(segmenter, images, Job(out, overlay=False))

    assert skipped(predict_files(segmenter, images, Job(out, **{"overlay": False} | change))) == [False, False]
    assert skipped(predict_files(segmenter, images, Job(out, **{"overlay": False} | change | {"force": False}))) == [
        True,
        True,
    ]


def test_what_was_asked_for_before_need_not_be_asked_for_again(segmenter: Segmenter, tmp_path: Path) -> None:
    images, out = make_images(tmp_path / "in", 1), tmp_path / "out"
    predict_files(segmenter, images, Job(out, colour=True))

    assert skipped(predict_files(segmenter, images, Job(out, overlay=False))) == [True]


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


@pytest.mark.parametrize("folder", ["masks", "overlays"])
@pytest.mark.parametrize("damage", [_flip_a_bit, _truncate, Path.unlink], ids=lambda d: d.__name__)
def test_a_picture_that_is_not_what_was_written_is_made_again(
    segmenter: Segmenter, tmp_path: Path, folder: str, damage: Callable[[Path], None]
) -> None:
    (image,) = make_images(tmp_path / "in", 1)
    predict_files(segmenter, [image], tmp_path / "out")
    picture = tmp_path / "out" / folder / image.name
    whole = picture.read_bytes()
    damage(picture)

    assert skipped(predict_files(segmenter, [image], tmp_path / "out")) == [False]
    assert picture.read_bytes() == whole


def test_a_mask_is_no_overlay(segmenter: Segmenter, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path / "in", 1)
    predict_files(segmenter, [image], tmp_path / "out")
    shutil.copy(tmp_path / "out/masks/image0.png", tmp_path / "out/overlays/image0.png")

    assert skipped(predict_files(segmenter, [image], tmp_path / "out")) == [False]


def test_a_broken_source_leaves_nothing_of_its_former_self(segmenter: Segmenter, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 2)
    predict_files(segmenter, images, Job(tmp_path / "out", colour=True))
    images[0].write_bytes(b"no picture")

    done, broken = predict_files(segmenter, images, tmp_path / "out")

    assert [item.image for item in done] == images[1:]
    assert "made of it before was removed" in str(broken[0])
    assert names_below(tmp_path / "out") == [f"{folder}/image1.png" for folder in ("colours", "masks", "overlays")]


def test_inputs_are_never_written_over(segmenter: Segmenter, tmp_path: Path) -> None:
    images = make_images(tmp_path / "out" / "masks", 2)
    before = [path.read_bytes() for path in images]

    with pytest.raises(InputError, match="lies where masks are written"):
        predict_files(segmenter, images, tmp_path / "out")

    assert [path.read_bytes() for path in images] == before


def test_the_record_is_one_with_a_png_that_others_read(tmp_path: Path) -> None:
    mask = testing.make_frame(40, 60)[1]
    source = Source.of_bytes(Path("a\udcff.png"), b"bytes")
    origin = Origin(source, "a" * 64, "c" * 64, "onnxruntime-cpu", "cpu", {"tiled": False})
    picture = tmp_path / "mask.png"

    picture.write_bytes(seal(encode_png(picture, mask), origin))

    assert is_done(picture, origin)
    np.testing.assert_array_equal(read_image(picture)[:, :, 0], mask)
    with Image.open(picture) as image:
        np.testing.assert_array_equal(np.asarray(image), mask)


def test_an_artifact_without_a_hash_proves_nothing(tmp_path: Path) -> None:
    origin = Origin(Source.of_bytes(Path("a.png"), b"bytes"), "", "c" * 64, "onnxruntime-cpu", "cpu", {})
    picture = tmp_path / "mask.png"
    picture.write_bytes(seal(encode_png(picture, np.zeros((4, 4), np.uint8)), origin))

    assert not is_done(picture, origin)


def test_a_video_is_done_when_all_its_pictures_are_what_was_written(segmenter: Segmenter, tmp_path: Path) -> None:
    clip, out = tmp_path / "clip.mp4", tmp_path / "out"
    make_video(clip, 3)
    predict_files(segmenter, [clip], out)

    assert skipped(predict_files(segmenter, [clip], out)) == [True]
    _flip_a_bit(out / "masks/clip/000001.png")
    assert skipped(predict_files(segmenter, [clip], out)) == [False]
    (out / "videos/clip.mp4").unlink()
    assert skipped(predict_files(segmenter, [clip], out)) == [False]
    assert skipped(predict_files(segmenter, [clip], Job(out, tiled=True))) == [False]
    make_video(clip, 2)
    os.utime(clip, (1, 1))
    assert skipped(predict_files(segmenter, [clip], Job(out, tiled=True))) == [False]
    assert len(list((out / "masks/clip").glob("*.png"))) == 2


def test_masks_of_another_backend_are_made_again_by_this_one(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    run, images = testing.make_run(tmp_path / "run"), make_images(tmp_path / "in", 1)
    with (
        Segmenter.open(run) as ours,
        Segmenter.open(run, "openvino", allow_unvalidated=True) as other,
    ):
        predict_files(ours, images, tmp_path / "out")

        assert ours.artifact_sha256 == other.artifact_sha256
        assert skipped(predict_files(other, images, tmp_path / "out")) == [False]
        assert skipped(predict_files(other, images, tmp_path / "out")) == [True]
        assert skipped(predict_files(ours, images, tmp_path / "out")) == [False]


@pytest.mark.parametrize(
    ("backend", "done"),
    [("onnxruntime-cpu", True), ("tensorrt-rtx", True), ("openvino", False), ("openvino-bf16", False)],
)
def test_a_record_without_a_backend_counts_where_only_one_is_likely(backend: str, done: bool) -> None:
    origin = Origin(Source.of_bytes(Path("a.png"), b"bytes"), "a" * 64, "c" * 64, backend, "cpu", {})
    before = origin.as_dict()
    del before["backend"], before["device"]

    assert origin.is_named_by(before) == done
    assert origin.is_named_by(origin.as_dict())
    assert not origin.is_named_by(origin.as_dict() | {"device": "cpu amx-bf16"})
