"""`segpipe predict`, `bundle` and `evaluate`: files, folders, videos and raw streams through the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from segpipe import draw, testing
from segpipe.errors import InputError
from segpipe.media.images import read_image, write_image
from segpipe.predicting.inputs import find_inputs
from segpipe.predicting.job import Job
from segpipe.predicting.predict import predict_files
from segpipe.predicting.video import count_frames
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.segmenter import Segmenter
from tests.using import make_images, make_video, segpipe


@pytest.fixture
def segmenter(run: Path) -> Segmenter:
    return Segmenter.open(run)


def test_images_give_masks_overlays_and_colours(segmenter: Segmenter, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 3)

    done, broken = predict_files(segmenter, images, Job(tmp_path / "out", colour=True))

    assert not broken
    assert [item.image for item in done] == images
    for item in done:
        frame = read_image(item.image)
        mask = segmenter(frame)
        np.testing.assert_array_equal(read_image(item.mask)[:, :, 0], mask)
        np.testing.assert_array_equal(read_image(item.overlay), draw.overlay(frame, mask, segmenter.palette))
        colours = read_image(tmp_path / "out" / "colours" / item.image.name)
        np.testing.assert_array_equal(colours, draw.colourise(mask, segmenter.palette))


def test_a_broken_file_is_reported_and_the_rest_goes_on(run: Path, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 3)
    images[1].write_bytes(b"not a picture")
    write_image(tmp_path / "in" / "grey.png", np.zeros((8, 8), np.uint8))

    result = segpipe("predict", run, tmp_path / "in", "-o", tmp_path / "out")

    assert result.returncode == 1
    assert b"image1.png is not an image" in result.stderr
    assert b"grey.png is 8-bit grey, the network takes 8-bit RGB" in result.stderr
    assert b"2 of 4 inputs" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "masks").iterdir()) == ["image0.png", "image2.png"]


def test_what_is_done_is_skipped_until_the_image_or_the_artifact_changes(segmenter: Segmenter, tmp_path: Path) -> None:
    images, out = make_images(tmp_path / "in", 2), tmp_path / "out"
    first, _ = predict_files(segmenter, images, out)
    times = [item.mask.stat().st_mtime_ns for item in first]

    again, _ = predict_files(segmenter, images, out)
    assert [item.skipped for item in again] == [True, True]
    assert [item.mask.stat().st_mtime_ns for item in again] == times

    write_image(images[0], testing.make_frame(50, 50, 9)[0])
    changed, _ = predict_files(segmenter, images, out)
    assert [item.skipped for item in changed] == [False, True]

    forced, _ = predict_files(segmenter, images, Job(out, force=True))
    assert [item.skipped for item in forced] == [False, False]

    other = testing.CONTRACT.model_copy(update={"network_size": (32, 32), "fit": "stretch"})
    with Segmenter.open(testing.make_run(tmp_path / "other", other)) as changed_run:
        redone, _ = predict_files(changed_run, images, out)
    assert [item.skipped for item in redone] == [False, False]


def test_an_image_over_the_limit_is_tiled(segmenter: Segmenter, tmp_path: Path) -> None:
    images = make_images(tmp_path / "in", 1)
    whole = segmenter(read_image(images[0]))
    segmenter.max_pixels = 100

    done, broken = predict_files(segmenter, images, tmp_path / "out")

    assert not broken
    assert (read_image(done[0].mask)[:, :, 0] == whole).mean() > 0.95


def test_a_video_gives_a_mask_a_frame_and_a_side_by_side_video(run: Path, tmp_path: Path) -> None:
    frames = make_video(tmp_path / "clip.mp4", 7)

    result = segpipe("predict", run, tmp_path / "clip.mp4", "-o", tmp_path / "out")

    assert result.returncode == 0, result.stderr
    assert result.stdout.decode().strip() == str(tmp_path / "out")
    masks = sorted((tmp_path / "out" / "masks" / "clip").glob("*.png"))
    assert len(masks) == count_frames(tmp_path / "out" / "videos" / "clip.mp4") == len(frames)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "videos" / "clip.mp4"))
    assert capture.read()[1].shape == (64, 192, 3)
    with Segmenter.open(run) as segmenter:
        for path, frame in zip(masks, frames, strict=True):
            # the video's compression moves colours and edges
            assert (read_image(path)[:, :, 0] == segmenter(frame)).mean() > 0.9
    again = segpipe("predict", run, tmp_path / "clip.mp4", "-o", tmp_path / "out")
    assert b"1 of 1 were done before" in again.stderr


def test_a_file_that_only_looks_like_a_video_is_refused(segmenter: Segmenter, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"no video")

    done, broken = predict_files(segmenter, [tmp_path / "clip.mp4"], tmp_path / "out")

    assert not done
    assert "clip.mp4 is not a video" in str(broken[0])
    assert not list((tmp_path / "out").rglob("*clip*"))


def test_a_raw_stream_of_frames_gives_a_raw_stream_of_masks(run: Path) -> None:
    frames = [testing.make_frame(24, 32, n)[0] for n in range(5)]

    result = segpipe("predict", run, "-", "-o", "-", "--size", 24, 32, data=b"".join(f.tobytes() for f in frames))

    assert result.returncode == 0, result.stderr
    with Segmenter.open(run) as segmenter:
        assert result.stdout == b"".join(segmenter(frame).tobytes() for frame in frames)


def test_a_raw_stream_that_is_cut_off_gives_what_came_and_says_so(run: Path) -> None:
    frame = testing.make_frame(24, 32)[0].tobytes()

    result = segpipe("predict", run, "-", "-o", "-", "--size", 24, 32, data=2 * frame + frame[:100])

    assert result.returncode == 1
    assert len(result.stdout) == 2 * 24 * 32
    assert b"inside frame 2: 100 of 2304 bytes" in result.stderr


def test_half_a_raw_stream_is_a_usage_error(run: Path, tmp_path: Path) -> None:
    assert segpipe("predict", run, "-", "-o", tmp_path).returncode == 2
    assert segpipe("predict", run, "-", "-o", "-").returncode == 2
    assert segpipe("predict", run, "-", "-o", "-", "--size", 0, 5).returncode == 2
    assert segpipe("predict", run, "photo.png", "-o", tmp_path, "--size", 0, 0).returncode == 2


def test_inputs_are_files_folders_and_globs_once_each(tmp_path: Path) -> None:
    images = make_images(tmp_path, 3)
    make_video(tmp_path / "clip.mp4", 1)

    found = find_inputs([str(images[2]), str(tmp_path / "*.png"), str(tmp_path)])

    assert found == [images[2], images[0], images[1], tmp_path / "clip.mp4"]
    with pytest.raises(InputError, match="names no image"):
        find_inputs([str(tmp_path / "none*")])
    write_image(tmp_path / "more" / "image0.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match="both write image0"):
        find_inputs([str(tmp_path), str(tmp_path / "more")])


def test_a_bundle_is_taken_like_a_run_and_holds_nothing_else(run: Path, tmp_path: Path) -> None:
    (run / "segpipe.toml").write_text("[data]\n")
    frame = testing.make_frame(40, 60)[0]

    result = segpipe("bundle", run, "-o", tmp_path / "bundle")
    shutil.move(tmp_path / "bundle", tmp_path / "elsewhere")

    assert result.returncode == 0, result.stderr
    names = {path.name for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()}
    assert names == {"manifest.json", "contract.json", "palette.json", "model.onnx", "verdicts.json"}
    with Segmenter.open(run) as original, Segmenter.open(tmp_path / "elsewhere") as bundled:
        np.testing.assert_array_equal(bundled(frame), original(frame))
    assert segpipe("verify", tmp_path / "elsewhere").returncode == 0


def test_a_bundle_carries_engines_and_leaves_checkpoints(tmp_path: Path) -> None:
    path = testing.make_run(tmp_path / "run")
    run = RunDirectory(path)
    for stage, name in (("train", "model.safetensors"), ("build", "model.rtx.engine")):
        with run.step(stage, {}, {}) as step:
            step.path(name).write_bytes(b"bytes")

    result = segpipe("bundle", path, "-o", tmp_path / "bundle")

    assert result.returncode == 0, result.stderr
    bundled = RunDirectory(tmp_path / "bundle")
    assert bundled.artifact_bytes("build", "model.rtx.engine") == b"bytes"
    assert "train" not in bundled.manifest.stages


def test_a_bundle_is_refused_where_something_lies_or_nothing_was_validated(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    fresh = RunDirectory.create(tmp_path / "fresh").path

    assert b"is there already" in segpipe("bundle", run, "-o", tmp_path / "full").stderr
    assert b"--until validate" in segpipe("bundle", fresh, "-o", tmp_path / "new").stderr
    assert not (tmp_path / "new").exists()


def test_evaluate_measures_what_is_deployed_without_torch(tmp_path: Path) -> None:
    run, data = testing.make_run(tmp_path / "run"), tmp_path / "data"
    for n in range(4):
        frame, mask = testing.make_frame(64, 96, n)
        if n == 3:
            mask[:, :48] = 255
        write_image(data / "test" / "images" / f"{n}.png", frame)
        write_image(data / "test" / "masks" / f"{n}.png", mask)
    classes = ", ".join(f'"{name}"' for name in testing.CONTRACT.classes)
    config = f'[data]\nkind = "folder"\nroot = "{data}"\nclasses = [{classes}]\n[input]\nfit = "pad"\n'
    (run / "segpipe.toml").write_text(config)
    call = f"from segpipe.cli import app\nimport sys\napp({['evaluate', str(run), '--json']!r}, standalone_mode=False)"
    script = f"{call}\nassert not {{'torch', 'lightning', 'onnx'}} & set(sys.modules), 'torch was loaded'"

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["frames"] == 4
    assert list(figures["classes"]) == list(testing.CONTRACT.classes)
    assert 0.9 < figures["mean_iou"] < 1  # only the blended edges of blocks differ
    assert figures["classes"]["red"]["iou"] > 0.9


def test_evaluate_prints_a_table(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(run, path)
    names = testing.CONTRACT.classes
    data = tmp_path / "data"
    frame, mask = testing.make_frame(64, 96)
    write_image(data / "test" / "images" / "0.png", frame)
    write_image(data / "test" / "masks" / "0.png", np.minimum(mask, 2))
    config = f'[data]\nkind = "folder"\nroot = "{data}"\nclasses = {json.dumps(names)}\n[input]\nfit = "pad"\n'
    (path / "segpipe.toml").write_text(config)

    result = segpipe("evaluate", path)

    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode().splitlines()
    assert lines[0].split() == ["class", "IoU", "F1", "precision", "recall"]
    assert [line.split()[0] for line in lines[1:5]] == list(names)
    assert lines[5].startswith("mIoU 0.")
    assert lines[5].endswith(" on 1 frame of the test split")
