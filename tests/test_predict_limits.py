"""What is too large, or says two sizes: refused by its header, before it is decoded."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segpipe import testing
from segpipe.errors import InputError
from segpipe.media.image_headers import Header, read_header
from segpipe.media.images import read_image, write_image
from tests.using import lines, segpipe


def claiming(path: Path, side: int) -> Path:
    """A PNG of a few bytes that says it has side x side pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(bytes(100))
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, body)]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize("side", [30_000, 1 << 24])
def test_an_image_that_claims_too_much_is_not_decoded(run: Path, tmp_path: Path, side: int) -> None:
    path = claiming(tmp_path / "huge.png", side)

    result = segpipe("predict", run, path, "-o", tmp_path / "out")

    assert result.returncode == 1
    assert f"huge.png is {side}x{side}, more than the 256 megapixels".encode() in result.stderr
    assert b"--max-megapixels" in result.stderr


def test_the_limit_of_pixels_is_an_option(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "large.png"
    write_image(image, np.zeros((1001, 1000, 3), np.uint8))

    refused = segpipe("predict", run, image, "-o", tmp_path / "out", "--max-megapixels", 1)
    taken = segpipe("predict", run, image, "-o", tmp_path / "out", "--max-megapixels", 2)

    assert (refused.returncode, taken.returncode) == (1, 0)
    assert b"large.png is 1001x1000, more than the 1 megapixels" in refused.stderr


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm", "jp2"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_headers_say_what_decoding_gives(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(testing.make_frame(37, 61)[0]).convert(mode).save(path)

    header = read_header(path.read_bytes())

    assert header is not None
    assert (header.height, header.width, header.pictures) == (*read_image(path).shape[:2], 1)


@pytest.mark.parametrize(
    "options",
    [
        {"format": "WEBP", "lossless": True},
        {"format": "TIFF", "big_tiff": True},
        {"format": "TIFF", "compression": "tiff_lzw"},
        {"format": "JPEG", "progressive": True},
    ],
    ids=str,
)
def test_headers_of_other_forms_are_read(tmp_path: Path, options: dict[str, str]) -> None:
    Image.fromarray(testing.make_frame(37, 61)[0]).save(tmp_path / "image", **options)

    header = read_header((tmp_path / "image").read_bytes())

    assert header is not None
    assert (header.height, header.width) == (37, 61)


def doubled_tags(path: Path) -> Path:
    """A TIFF whose width stands twice in its directory: OpenCV takes the first, the second is small."""
    tags = [(256, 4, 300), (256, 4, 3), (257, 4, 300), (257, 4, 3), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, 300), (279, 4, 90_000)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 90_008) + bytes(90_000) + directory)
    return path


def fake_codestream(path: Path) -> Path:
    """A JPEG 2000 whose first box of its own kind holds what looks like the start of a small codestream."""
    Image.fromarray(testing.make_frame(300, 300)[0]).save(path)
    content = path.read_bytes()
    fake = b"\xff\x4f\xff\x51" + struct.pack(">HHIIII", 47, 0, 3, 3, 0, 0)
    box = struct.pack(">I4s", 8 + 16 + len(fake), b"uuid") + bytes(16) + fake
    at = content.index(b"jp2c") - 4
    path.write_bytes(content[:at] + box + content[at:])
    return path


@pytest.mark.parametrize("make", [doubled_tags, fake_codestream])
def test_a_header_that_says_two_sizes_passes_no_limit(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path / ("image.tif" if make is doubled_tags else "image.jp2"))

    with pytest.raises(InputError, match=r"is 300x300, more than the 0\.01 megapixels"):
        read_image(path, max_pixels=10_000)
    assert read_image(path, max_pixels=90_000).shape[:2] == (300, 300)


def test_an_image_that_decodes_to_more_than_its_header_says_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "image.png", np.zeros((30, 40), np.uint8))
    monkeypatch.setattr("segpipe.media.images.read_header", lambda _: Header(3, 4))  # a trick nobody knows yet

    with pytest.raises(InputError, match=r"image\.png decodes to 30x40, though its header says 3x4"):
        read_image(tmp_path / "image.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif", "ppm", "jp2"])
def test_a_torn_image_is_wrong_input_wherever_it_is_torn(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(testing.make_frame(16, 16)[0]).save(path)
    content = path.read_bytes()
    for length in range(60):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=path.name):
            read_image(path)


def test_a_raw_frame_larger_than_allowed_is_one_line(run: Path) -> None:
    result = segpipe("predict", run, "-", "-o", "-", "--size", 1_000_000, 1_000_000, data=b"x")

    assert result.returncode == 1
    assert lines(result)[-1].startswith("error: --size is 1000000x1000000, more than the 256 megapixels")
