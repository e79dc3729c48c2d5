"""Images as they are read: upright, in their own channels and depth, and refused where they would be converted."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from segpipe import testing
from segpipe.errors import InputError
from segpipe.media.images import read_image
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter


@pytest.fixture
def segmenter(run: Path) -> Segmenter:
    return Segmenter.open(run)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_turned_photograph_is_read_upright(tmp_path: Path, suffix: str) -> None:
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 3  # upside down
    frame = testing.make_frame(48, 64)[0]
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(frame).save(path, exif=orientation, quality=95)

    difference = np.abs(read_image(path).astype(int) - frame[::-1, ::-1])

    assert difference.mean() < 20  # JPEG and WebP blur the blocks' edges
    assert np.abs(read_image(path).astype(int) - frame).mean() > 40


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_turned_picture_with_alpha_is_read_upright(tmp_path: Path, suffix: str, number: int) -> None:
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = number
    frame = np.dstack([testing.make_frame(48, 64)[0], np.full((48, 64), 200, np.uint8)])
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(frame).save(path, exif=orientation, lossless=True)

    with Image.open(path) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(read_image(path), upright)


def test_a_cmyk_jpeg_with_bytes_that_fill_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (8, 8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xff" + content[2:])  # JPEG allows them before any marker

    with pytest.raises(InputError, match="is CMYK"):
        read_image(path)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_cmyk_tiff_is_refused_as_a_jpeg_is(compression: str, tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8)).save(tmp_path / "cmyk.tif", compression=compression)

    with pytest.raises(InputError, match="is CMYK"):
        read_image(tmp_path / "cmyk.tif")


@pytest.mark.parametrize(("mode", "deep"), [("L", False), ("I;16", True)])
def test_a_deep_tiff_in_which_0_is_white_is_refused_and_a_shallow_one_is_read(
    mode: str, deep: bool, tmp_path: Path
) -> None:
    picture, path = Image.fromarray(np.full((8, 8), 200, np.uint16 if deep else np.uint8)), tmp_path / "white.tif"
    picture.save(path)
    content, photometric = bytearray(path.read_bytes()), struct.pack("<HHIH", 262, 3, 1, 1)
    assert picture.mode == mode
    assert content.count(photometric) == 1
    content[content.index(photometric) + 8] = 0
    path.write_bytes(content)

    if deep:
        with pytest.raises(InputError, match=r"0 is white \(MinIsWhite\)"):
            read_image(path)
    else:
        assert read_image(path)[0, 0] == 55


@pytest.mark.parametrize(
    ("mode", "name", "shape"),
    [
        ("L", "grey.png", (48, 64, 1)),
        ("L", "grey.jpg", (48, 64, 1)),
        ("1", "bilevel.png", (48, 64, 1)),
        ("P", "palette.png", (48, 64, 3)),
        ("RGBA", "alpha.png", (48, 64, 4)),
        ("LA", "grey_alpha.png", (48, 64, 4)),
        ("I;16", "deep.png", (48, 64, 1)),
    ],
)
def test_other_kinds_of_images_keep_their_channels_and_depth(
    tmp_path: Path, mode: str, name: str, shape: tuple[int, ...]
) -> None:
    Image.fromarray(testing.make_frame(48, 64)[0]).convert("L" if mode == "I;16" else "RGB").convert(mode).save(
        tmp_path / name
    )

    pixels = read_image(tmp_path / name)

    assert pixels.shape == shape
    assert pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cmyk.jpg", "is CMYK"),
        ("cmyk.tif", "is CMYK"),
        ("alpha.png", "8-bit RGB with transparency, the network takes 8-bit RGB"),
        ("many.png", "holds 2 pictures"),
        ("many.webp", "holds 2 pictures"),
        ("many.tif", "holds 2 pictures"),
        ("many.gif", "holds 2 pictures"),
        ("many.mpo", "holds 2 pictures"),
    ],
)
def test_what_would_be_converted_silently_is_refused(
    segmenter: Segmenter, tmp_path: Path, name: str, says: str
) -> None:
    picture, path = Image.fromarray(testing.make_frame(48, 64)[0]), tmp_path / name
    if name.startswith("many"):
        picture.save(path, save_all=True, append_images=[picture.rotate(180)])
    else:
        picture.convert("CMYK" if name.startswith("cmyk") else "RGBA").save(path)

    done, broken = predict_files(segmenter, [path], tmp_path / "out")

    assert not done
    assert str(path) in str(broken[0])
    assert says in str(broken[0])


@pytest.mark.parametrize("kind", [b"gAMA", b"zTXt"])
def test_broken_chunks_beside_exif_are_refused_in_words(tmp_path: Path, kind: bytes) -> None:
    file, path = io.BytesIO(), tmp_path / "alpha.png"
    orientation = Image.Exif()
    orientation[ExifTags.Base.Orientation] = 3
    Image.new("RGBA", (64, 48)).save(file, "PNG", exif=orientation)
    chunk = kind + {b"gAMA": b"", b"zTXt": b"a\0\0" + zlib.compress(bytes(2 << 20))}[kind]
    broken = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(file.getvalue()[:33] + broken + file.getvalue()[33:])

    with pytest.raises(InputError, match="is damaged"):
        read_image(path)


def test_a_tiff_whose_directories_lie_over_each_other_is_refused_at_once(tmp_path: Path) -> None:
    """A file of 800 kB could hold 16000 directories of 65535 entries each: hours, without a pixel."""
    count, directories, path = 500, 20, tmp_path / "over.tif"
    content = bytearray(b"II*\0" + struct.pack("<I", 8) + bytes(12 * count + 8 * directories))
    for at in range(8, 8 + 4 * directories, 4):
        struct.pack_into("<H", content, at, count)
        struct.pack_into("<I", content, at + 2 + 12 * count, at + 4 if at < 4 + 4 * directories else 0)
    path.write_bytes(content)

    with pytest.raises(InputError, match="its header is cut off or wrong"):
        read_image(path)


def test_a_jpeg_of_hundreds_of_scans_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file, path = io.BytesIO(), tmp_path / "scans.jpg"
    Image.new("RGB", (64, 48)).save(file, "JPEG", progressive=True)
    content, end = file.getvalue(), b"\xff\xd9"
    path.write_bytes(content)
    assert read_image(path).shape == (48, 64, 3)
    last = content[content.rindex(b"\xff\xda") : -len(end)]
    path.write_bytes(content[: -len(end)] + 200 * last + end)

    with pytest.raises(InputError, match=r"a JPEG of 2\d\d scans"):
        read_image(path)


_GIF = b"GIF89a\x08\0\x08\0\0\0\0"
_GIF_PICTURE = b",\0\0\0\0\x08\0\x08\0\0\x02"
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x08\0\0\0\x08\x08\6\0\0\0\0\0\0\0"
_EMPTY_CHUNKS = b"\0\0\0\0aaAa\0\0\0\0" * 6000
_TINY_TIFF_CHAIN = b"".join(struct.pack("<HI", 0, at) for at in range(14, 14 + 6 * 3000, 6))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\xff\xd8" + b"\xff\xe0\0\2" * 5000, "header is cut off or wrong"),
        (b"\xff\xd8" + b"\xff" * 100_000, "header is cut off or wrong"),
        (b"\xff\xd8\xff\xf0" + b"\xff\x00" * 50_000, "header is cut off or wrong"),
        (b"P6" + b" " * 100_000 + b"1 1 255 abc", "header is cut off or wrong"),
        (b"P6 #" + b"a" * 100_000 + b"\n1 1 255 abc", "header is cut off or wrong"),
        (b"P6 1 " + b" " * 65_531 + b"12 255 abc" * 7, "header is cut off or wrong"),
        (b"II*\0\x08\0\0\0" + _TINY_TIFF_CHAIN, "holds 1000 pictures"),
        (_PNG + _EMPTY_CHUNKS, "header is cut off or wrong"),
        (_PNG + b"\0\0\0\0IDAT\0\0\0\0" + _EMPTY_CHUNKS, "header is cut off or wrong"),
        (b"RIFF\0\0\0\0WEBP" + b"VP8X\x0a\0\0\0" + bytes(10) + b"aaaa\0\0\0\0" * 6000, "header is cut off or wrong"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 6000, "header is cut off or wrong"),
        (_GIF + (_GIF_PICTURE + b"\0") * 3000 + b";", "holds 3000 pictures"),
        (_GIF + (_GIF_PICTURE + b"\0") * 6000 + b";", "header is cut off or wrong"),
        (_GIF + _GIF_PICTURE + b"\1\0" * 6000 + b"\0;", "header is cut off or wrong"),
        (_GIF + b"!\xfe\0" * 6000 + _GIF_PICTURE + b"\0;", "header is cut off or wrong"),
        (_GIF + bytes(100_000) + _GIF_PICTURE + b"\0;", "header is cut off or wrong"),
        (_GIF + _GIF_PICTURE + b"\0" + bytes(100_000), "header is cut off or wrong"),
        (_GIF + b";" + _GIF_PICTURE + b"\0", "header is cut off or wrong"),
    ],
    ids=[
        "segments",
        "fill",
        "between",
        "blanks",
        "comment",
        "cut number",
        "directories",
        "chunks",
        "chunks behind",
        "WebP's chunks",
        "boxes",
        "GIF's pictures",
        "more of them",
        "GIF's pieces",
        "GIF's comments",
        "between GIF's",
        "behind GIF's",
        "none",
    ],
)
def test_headers_that_take_long_are_refused_before_they_are_read_through(
    content: bytes, says: str, tmp_path: Path
) -> None:
    """Of 8 MB each they took up to 14 s."""
    path = tmp_path / "long"
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    path.write_bytes(content + file.getvalue()[2:] if content.startswith(b"\xff\xd8") else content)

    with pytest.raises(InputError, match=says):
        read_image(path)
