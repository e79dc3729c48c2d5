"""What `segpipe predict` is given: strange names, and what is no file. One bad entry ends no batch."""

import ast
import logging
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from segpipe import testing
from segpipe.errors import StorageError
from segpipe.media.images import read_image, write_image
from segpipe.predicting.inputs import find_inputs
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter
from tests.children import PATIENCE_S, ROOT, child
from tests.using import lines, make_images, make_video, names_below, segpipe

NOT_UTF8 = os.fsdecode(b"n\xff\xfe")
LONGEST = 255  # bytes of a name


@pytest.mark.parametrize("env", [{}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}], ids=str)
@pytest.mark.parametrize("name", [NOT_UTF8, "straße 東京"], ids=ascii)
def test_any_name_that_the_file_system_takes_is_segmented(
    run: Path, tmp_path: Path, name: str, env: dict[str, str]
) -> None:
    folder = tmp_path / name
    make_images(folder, 1)[0].rename(folder / f"{name}.png")
    make_video(tmp_path / "clip.mp4", 2)
    (tmp_path / "clip.mp4").rename(folder / f"{name}2.mp4")
    (folder / f"{name}3.png").write_bytes(b"torn")

    result = segpipe("predict", run, folder, "-o", folder / "out", env=env)

    assert result.returncode == 1, result.stderr
    assert b"3.png is not an image" in result.stderr
    assert b"1 of 3 inputs could not be segmented" in result.stderr
    assert b"Traceback" not in result.stderr
    names = names_below(folder / "out")
    assert {f"masks/{name}.png", f"overlays/{name}.png", f"masks/{name}2/000001.png", f"videos/{name}2.mp4"} < {*names}


def test_opencv_is_never_given_a_name() -> None:
    takes_names = {"imread", "imwrite", "imcount", "imreadmulti", "imreadanimation", "FileStorage"}
    found = []
    for path in [*ROOT.glob("segpipe/**/*.py"), *ROOT.glob("stages/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [call.attr for call in calls if isinstance(call, ast.Attribute)]
        found += [f"{path.name}: {name}" for name in names if name in takes_names]

    assert found == []


def test_one_bad_entry_ends_no_batch(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_images(folder, 1)
    long_name = folder / ("n" * (LONGEST - 4) + ".png")
    write_image(folder / "short.png", testing.make_frame(40, 60)[0])
    (folder / "short.png").rename(long_name)
    os.mkfifo(folder / "m.png")
    os.mkfifo(folder / "m2.mp4")
    (folder / "dangling.png").symlink_to("nowhere.png")
    (folder / "folder.png").mkdir()
    (tmp_path / "out/masks/taken.png").mkdir(parents=True)
    write_image(folder / "taken.png", testing.make_frame(40, 60)[0])

    result = segpipe("predict", run, folder, "-o", tmp_path / "out")

    said = lines(result)
    assert result.returncode == 1, result.stderr
    for name in ("m.png", "m2.mp4"):
        assert any(f"{name} is not a regular file" in line for line in said)
    assert any("dangling.png cannot be read: No such file" in line for line in said)
    assert any("folder.png cannot be read: Is a directory" in line for line in said)
    assert any("taken.png" in line and "a directory lies where a file is needed" in line for line in said)
    assert "5 of 7 inputs could not be segmented" in said[-1]
    assert {"masks/image0.png", f"masks/{long_name.name}"} <= {*names_below(tmp_path / "out")}


def test_a_name_with_no_room_for_a_suffix_is_one_files_fault(run: Path, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path / "in", 1)
    longest = image.rename(image.with_name("n" * LONGEST))
    write_image(tmp_path / "in/good.png", testing.make_frame(40, 60)[0])

    result = segpipe("predict", run, longest, tmp_path / "in/good.png", "-o", tmp_path / "out")

    assert result.returncode == 1
    assert b"File name too long" in result.stderr
    assert b"1 of 2 inputs could not be segmented" in result.stderr
    assert "masks/good.png" in names_below(tmp_path / "out")


def test_a_name_obeys_no_terminal_and_forges_no_line(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a\nerror: forged\x1b[31m.png").write_bytes(b"torn")
    (folder / "b\nerror: forged\x1b[31m.mp4").write_bytes(b"torn")
    (folder / "c.x\nerror: forged\x1b[31m").touch()

    result = segpipe("predict", run, folder, "-o", tmp_path / "out")

    said = lines(result)
    assert result.returncode == 1
    assert b"\x1b[31m" not in result.stderr
    assert sum("forged" in line for line in said) == 3
    assert not [line for line in said if line.startswith("error: forged")]
    assert "2 of 2" in said[-1]


def test_two_stars_follow_no_links_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deep = make_images(tmp_path / "a" / "b", 2)
    (top,) = (path.rename(tmp_path / "a" / "top.png") for path in make_images(tmp_path / "a", 1))
    for name in ("one", "two", "three"):  # every way round is another name: glob.glob would try 3^40
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")

    with caplog.at_level(logging.WARNING):
        found = find_inputs([f"{tmp_path}/a/**/*.png"])

    assert found == [*deep, top]
    assert sorted(re.findall(r"/a/(\w+): left out", caplog.text)) == ["one", "three", "two"]


@pytest.mark.parametrize("pattern", ["**/*.png", "./**/*.png", "*/**/*.png", "a/**", "a/**/b/**/*.png", "**/b/*.png"])
def test_two_stars_mean_any_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    make_images(tmp_path / "a" / "b", 2)
    make_images(tmp_path / "a" / ".hidden" / "b", 1)
    monkeypatch.chdir(tmp_path)

    found = [path for path in find_inputs([pattern]) if path.is_file()]

    assert found == [Path("a/b/image0.png"), Path("a/b/image1.png")]


def test_what_is_left_out_of_a_folder_is_one_line(run: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "in", 1)
    write_image(tmp_path / "in/deeper/other.png", read_image(tmp_path / "in/image0.png"))
    for name in ("a.gif", "b.GIF", "notes.txt", ".hidden", "README"):
        (tmp_path / "in" / name).touch()

    result = segpipe("predict", run, tmp_path / "in", "-o", tmp_path / "out")

    assert result.returncode == 0
    (line,) = [line for line in lines(result) if "left out" in line]
    assert line.endswith(f"; folders are not entered: give '{tmp_path / 'in'}/**/*.png' to read those too")
    assert ": .gif 2, .txt 1, folders 1, without a suffix 1;" in line
    assert find_inputs([line.split("'")[1]]) == [tmp_path / "in/deeper/other.png", tmp_path / "in/image0.png"]


def test_a_name_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot use"):
        find_inputs([str(tmp_path / ("n" * 300))])


def test_a_folder_that_may_not_be_searched_is_one_line(tmp_path: Path) -> None:
    """In a child that is not root: root may search every folder."""
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.getuid() and "pytest" in str(path):
            path.chmod(0o755)
    (tmp_path / "locked").mkdir(mode=0)
    script = """
import os, sys
from segpipe.errors import StorageError
from segpipe.predicting.inputs import find_inputs
if os.getuid() == 0:
    os.setuid(65534)
for name in sys.argv[1:]:
    try:
        find_inputs([name])
    except StorageError as error:
        print(error)
"""
    names = [str(tmp_path / name) for name in ("locked/a.png", "locked")]
    with child(sys.executable, "-c", script, *names) as process:
        said, errors = process.communicate(timeout=PATIENCE_S)

    assert errors == ""
    assert [line.startswith("cannot use ") for line in said.splitlines()] == [True, True], said


def test_a_file_where_a_folder_belongs_is_one_line(run: Path, tmp_path: Path) -> None:
    (image,) = make_images(tmp_path, 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/masks").touch()

    for out in (image, tmp_path / "out"):
        result = segpipe("predict", run, image, "-o", out)

        assert result.returncode == 1
        assert lines(result)[-1].startswith("error: cannot write")


def test_what_is_wrong_with_a_file_is_said_in_its_own_words_and_the_remedy_once(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    write_image(tmp_path / "whole.png", pixels)
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:20])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    write_image(tmp_path / "grey.png", pixels[..., 0])
    write_image(tmp_path / "grey2.png", pixels[..., 0])
    write_image(tmp_path / "deep.png", pixels.astype(np.uint16))
    names = ("torn", "empty", "text", "grey", "grey2", "deep")

    with Segmenter.open(run, allow_unvalidated=True) as segmenter:
        _, broken = predict_files(segmenter, [tmp_path / f"{name}.png" for name in names], tmp_path / "out")
    told = {error.message.partition(".png ")[0].rpartition("/")[2]: str(error) for error in broken}

    assert "is damaged" in told["torn"]
    assert "is empty. copy or make it again" in told["empty"]
    assert "is not an image, or of a kind that is not read. PNG, JPEG, BMP, TIFF, WebP" in told["text"]
    assert "is 8-bit grey, the network takes 8-bit RGB. convert it to 8-bit RGB" in told["grey"]
    assert "is 16-bit RGB, the network takes 8-bit RGB" in told["deep"]
    assert caplog.text.count("convert it to 8-bit RGB") == 1
    assert "PNG or JPEG" not in caplog.text
