"""TIFFs read by windows: the mask of `tiled`, where the image lies, in a file that is whole or not there."""

import os
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from segpipe import testing
from segpipe.batch.index import Files
from segpipe.batch.stores import LocalStore
from segpipe.batch.version import Version
from segpipe.errors import InputError, SegpipeError, StorageError
from segpipe.predicting.done import record_in
from segpipe.predicting.job import Advance, Job
from segpipe.predicting.predict import predict_files
from segpipe.runtime.segmenter import Segmenter
from tests.calling import call
from tests.using import names_below

rasterio: Any = pytest.importorskip("rasterio")
pytest.importorskip("pyarrow")

from segpipe.batch.driver import Here, Request, predict_batch  # noqa: E402 - pyarrow may not be there
from segpipe.media import raster_masks  # noqa: E402 - nor rasterio

HEIGHT, WIDTH = 300, 700
"""Several rows and columns of the network's tiles, none of them a multiple."""
TILE = (64, 96)
PLACE = rasterio.transform.Affine(0.25, 0, 500_000, 0, -0.25, 5_800_000)
BOTH = {"crs": "EPSG:32633", "transform": PLACE}


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    small = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": TILE})
    with Segmenter.open(testing.make_run(tmp_path_factory.mktemp("tiles") / "run", small)) as opened:
        yield opened


def frame(seed: int = 0) -> NDArray[Any]:
    return testing.make_frame(HEIGHT, WIDTH, seed)[0]


def write_tiff(path: Path, pixels: NDArray[Any], **profile: Any) -> Path:
    """HxWxC as GeoTIFF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = pixels.shape
    shape = {"height": height, "width": width, "count": count, "dtype": str(pixels.dtype)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as dataset:
            dataset.write(pixels.transpose(2, 0, 1))
    return path


def read_mask(path: Path) -> NDArray[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return dataset.read(1)


def predicted(segmenter: Segmenter, image: Path, out: Path, **more: Any) -> Path:
    """The mask of a TIFF, or its error."""
    done, broken = predict_files(segmenter, [image], Job(out, geotiff=True, **more))
    if broken:
        raise broken[0]
    return done[0].mask


FORMS = {
    "strips": {},
    "LZW in tiles": {"compress": "lzw", "tiled": True, "blockxsize": 64, "blockysize": 64},
    "BigTIFF, deflated": {"BIGTIFF": "YES", "compress": "deflate", "predictor": 2},
    "planes apart": {"interleave": "band"},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_mask_by_windows_is_that_of_tiled_pixel_for_pixel(
    segmenter: Segmenter, tmp_path: Path, form: dict[str, Any]
) -> None:
    image = write_tiff(tmp_path / "a.tif", frame(), **form)

    mask = predicted(segmenter, image, tmp_path / "out")

    assert mask == tmp_path / "out/masks/a.tif"
    np.testing.assert_array_equal(read_mask(mask), segmenter.tiled(frame()))


def test_jpeg_inside_is_read_as_colours(segmenter: Segmenter, tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", frame(), compress="jpeg", photometric="ycbcr", tiled=True, **BOTH)
    with rasterio.open(image) as dataset:
        pixels = np.ascontiguousarray(dataset.read().transpose(1, 2, 0))

    mask = predicted(segmenter, image, tmp_path / "out")

    np.testing.assert_array_equal(read_mask(mask), segmenter.tiled(pixels))


def test_the_mask_lies_where_the_image_lies_with_tiles_colours_and_overviews(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    image = write_tiff(tmp_path / "a.tif", np.tile(frame(), (2, 1, 1)), **BOTH)

    mask = predicted(segmenter, image, tmp_path / "out")

    with rasterio.open(mask) as dataset:
        assert (dataset.crs, dataset.transform) == (rasterio.crs.CRS.from_epsg(32633), PLACE)
        assert dataset.profile["tiled"]
        assert dataset.compression.name == "deflate"
        assert dataset.overviews(1) == [2]
        colours = [dataset.colormap(1)[number][:3] for number in range(4)]
    assert colours == [*segmenter.palette]


def test_a_resolution_without_a_place_is_kept(segmenter: Segmenter, tmp_path: Path) -> None:
    image = tmp_path / "slide.tif"
    Image.fromarray(frame()).save(image, dpi=(50_000, 50_000))

    mask = predicted(segmenter, image, tmp_path / "out")

    with Image.open(mask) as written:
        assert float(written.info["dpi"][0]) == pytest.approx(50_000)


def test_a_world_file_tells_the_place(segmenter: Segmenter, tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", frame())
    image.with_suffix(".tfw").write_text("0.25\n0\n0\n-0.25\n500000.125\n5799999.875\n")

    mask = predicted(segmenter, image, tmp_path / "out")

    with rasterio.open(mask) as dataset:
        assert dataset.transform == PLACE


def test_what_tells_no_place_and_no_size_of_pixels_is_left_out(segmenter: Segmenter, tmp_path: Path) -> None:
    image = tmp_path / "a.tif"
    Image.fromarray(frame()).save(image, description="Aperio |MPP = 1.2.3|")
    os.mkfifo(image.with_suffix(".tfw"))  # nobody ever writes into it
    image.with_suffix(".tifw").symlink_to("/dev/zero")

    mask = predicted(segmenter, image, tmp_path / "out")

    np.testing.assert_array_equal(read_mask(mask), segmenter.tiled(frame()))


def test_pixels_without_data_are_none_of_the_classes(segmenter: Segmenter, tmp_path: Path) -> None:
    pixels = frame().clip(1, 255)
    pixels[40:90, 100:250] = 0
    image = write_tiff(tmp_path / "a.tif", pixels, nodata=0, **BOTH)
    clear = np.dstack([pixels, np.where(pixels.any(2), 255, 0).astype(np.uint8)])
    transparent = write_tiff(tmp_path / "b.tif", clear, photometric="rgb", alpha="yes", **BOTH)
    wanted = segmenter.tiled(pixels)
    wanted[40:90, 100:250] = segmenter.contract.ignore_index

    for one in (image, transparent):
        mask = predicted(segmenter, one, tmp_path / "out")

        np.testing.assert_array_equal(read_mask(mask), wanted)
        with rasterio.open(mask) as dataset:
            assert dataset.nodata == segmenter.contract.ignore_index


def four_bands(path: Path) -> None:
    write_tiff(path, np.dstack([frame(), frame()[:, :, :1]]), photometric="rgb", alpha="no")


def paletted(path: Path) -> None:
    Image.fromarray(frame()).quantize(8).save(path)


def turned(path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    Image.fromarray(frame()).save(path, tiffinfo=tags)


def two_pictures(path: Path) -> None:
    Image.fromarray(frame()).save(path, save_all=True, append_images=[Image.fromarray(frame(1))])


def cut_off(path: Path) -> None:
    write_tiff(path, frame(), tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def torn(path: Path) -> None:
    write_tiff(path, frame(), compress="lzw")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    path.write_bytes(data)


def sparse(path: Path) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=400_000, width=400_000, count=3, dtype="uint8", tiled=True, SPARSE_OK=True,
        blockxsize=4096, blockysize=4096, **BOTH,
    ):  # fmt: skip
        pass


REFUSED = {
    "four bands": (four_bands, "has 4 bands of uint8, the network takes 3 of uint8"),
    "16 bits": (lambda path: write_tiff(path, frame().astype(np.uint16)), "has 3 bands of uint16"),
    "grey": (lambda path: write_tiff(path, frame()[:, :, :1]), "has 1 bands of uint8"),
    "white is 0": (lambda path: write_tiff(path, frame()[:, :, :1], photometric="miniswhite"), "MinIsWhite"),
    "CMYK": (lambda path: Image.fromarray(frame()).convert("CMYK").save(path), "is CMYK"),
    "a palette": (paletted, "has a palette"),
    "turned": (turned, "is to be turned"),
    "two pictures": (two_pictures, "holds 2 pictures"),
    "cut off": (cut_off, "is damaged"),
    "torn": (torn, "is damaged"),
    "a claim": (sparse, "claims 400000x400000"),
    "no TIFF": (lambda path: path.write_bytes(b"II*\0" + b"\xff" * 60), "is damaged, or no TIFF"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged, or no TIFF"),
}


@pytest.mark.parametrize(("make", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_as_it_is_meant_is_one_line_and_leaves_nothing(
    segmenter: Segmenter, tmp_path: Path, make: Any, says: str
) -> None:
    make(tmp_path / "a.tif")

    with pytest.raises(InputError, match=says) as refused:
        predicted(segmenter, tmp_path / "a.tif", tmp_path / "out")

    assert "\n" not in str(refused.value)
    assert refused.value.hint
    assert names_below(tmp_path / "out") == []
    assert "/dev/fd" not in str(refused.value)


def test_what_would_not_fit_into_memory_is_refused_before_it_is_read(segmenter: Segmenter, tmp_path: Path) -> None:
    piece = write_tiff(tmp_path / "piece.tif", frame(), compress="deflate", blockysize=HEIGHT)
    strips = write_tiff(tmp_path / "strips.tif", frame(), blockysize=1)

    with pytest.raises(InputError, match=r"a block of .*piece.tif.* is 300x700"):
        predicted(segmenter, piece, tmp_path / "out", max_pixels=100_000)
    with pytest.raises(InputError, match=r"a row of tiles of .*strips.tif is 64x700"):
        predicted(segmenter, strips, tmp_path / "out", max_pixels=40_000)


def pyramid(path: Path) -> None:
    """As scanners of slides write them: the whole, at a glance, a level, a label; only tags say what is what."""
    levels = [Image.fromarray(frame()[::step, ::step]) for step in (1, 8, 2, 16)]
    note = "Aperio Image Library v11\r\n700x300 |AppMag = 20|MPP = 0.5000"
    levels[0].save(path, "tiff", save_all=True, append_images=levels[1:], description=note)


def test_of_a_pyramid_the_largest_level_is_segmented(segmenter: Segmenter, tmp_path: Path) -> None:
    pyramid(tmp_path / "a.svs")

    mask = predicted(segmenter, tmp_path / "a.svs", tmp_path / "out")

    np.testing.assert_array_equal(read_mask(mask), segmenter.tiled(frame()))
    with Image.open(mask) as written:
        assert float(written.info["dpi"][0]) == pytest.approx(50_800)  # half a micron


def test_what_is_done_is_skipped_until_image_or_mask_change(segmenter: Segmenter, tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "a.tif", frame())
    job = Job(tmp_path / "out", geotiff=True)
    predict_files(segmenter, [image], job)

    assert predict_files(segmenter, [image], job)[0][0].skipped
    mask = tmp_path / "out/masks/a.tif"
    whole = mask.read_bytes()
    mask.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    assert not predict_files(segmenter, [image], job)[0][0].skipped
    assert mask.read_bytes() == whole
    write_tiff(image, frame(1))
    assert not predict_files(segmenter, [image], job)[0][0].skipped
    np.testing.assert_array_equal(read_mask(mask), segmenter.tiled(frame(1)))


def test_a_mask_of_somebody_elses_is_never_replaced_and_one_of_a_broken_image_goes(
    segmenter: Segmenter, tmp_path: Path
) -> None:
    image = write_tiff(tmp_path / "a.tif", frame())
    write_tiff(tmp_path / "out/masks/a.tif", frame(2))
    with pytest.raises(SegpipeError, match="is not segpipe's"):
        predicted(segmenter, image, tmp_path / "out")

    mask = predicted(segmenter, image, tmp_path / "other")
    cut_off(image)
    with pytest.raises(InputError, match="is damaged"):
        predicted(segmenter, image, tmp_path / "other")

    assert not mask.exists()
    assert names_below(tmp_path / "out") == ["masks/a.tif"]


def test_a_mask_that_does_not_come_back_as_it_went_is_none(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = write_tiff(tmp_path / "a.tif", frame())
    monkeypatch.setattr(raster_masks, "_crc", lambda dataset: 0)

    with pytest.raises(StorageError, match="does not come back"):
        predict_files(segmenter, [image], Job(tmp_path / "out", geotiff=True))

    assert names_below(tmp_path / "out/masks") == []


def test_names_that_are_no_utf_8_are_names(segmenter: Segmenter, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff\nb")
    image = write_tiff(tmp_path / "a.tif", frame())
    folder.mkdir()
    image = image.rename(folder / os.fsdecode(b"\xe9.tif"))

    mask = predicted(segmenter, image, folder / "out")

    assert mask.name == image.name
    assert record_in(mask)["source"]["path"] == str(image)


def test_a_batch_has_the_same_masks_and_a_row_of_each(segmenter: Segmenter, tmp_path: Path) -> None:
    image = write_tiff(tmp_path / "in/deep/a.tif", frame(), **BOTH)
    cut_off(tmp_path / "in/b.tif")
    Image.fromarray(frame(3)).save(tmp_path / "in/c.png")
    job = Job(Path(), overlay=False, geotiff=True)
    version = Version.of(segmenter, job, ("mask",))
    request = Request(str(tmp_path / "in"), str(tmp_path / "out"), job, version)

    def unseen(total: int) -> nullcontext[Advance]:
        return nullcontext(lambda frames, /, *, skipped=False: None)

    first = predict_batch(Here(segmenter, job, ("mask",)), request, unseen)
    again = predict_batch(Here(segmenter, job, ("mask",)), request, unseen)

    assert (first.done, first.broken, again.skipped, again.broken) == (2, 1, 2, 1)
    store = LocalStore(Path(first.folder))
    rows = Files.of(store).latest(["mask", "height", "shares", "error"])
    assert rows["deep/a.tif"][:2] == ("masks/deep/a.tif", HEIGHT)
    assert rows["c.png"][0] == "masks/c.png"
    assert "is damaged" in str(rows["b.tif"][3])
    written = (store.root / "masks/deep/a.tif").read_bytes()
    alone = predicted(segmenter, image, tmp_path / "alone")
    np.testing.assert_array_equal(read_mask(store.root / "masks/deep/a.tif"), read_mask(alone))
    counts = np.bincount(segmenter.tiled(frame()).reshape(-1), minlength=4)
    assert rows["deep/a.tif"][2] == [count / (HEIGHT * WIDTH) for count in counts]
    (store.root / "index").rename(store.root / "lost")
    predict_batch(Here(segmenter, job, ("mask",)), request, unseen)
    assert (store.root / "masks/deep/a.tif").read_bytes() == written


def test_the_commands_take_the_option(run: Path, tmp_path: Path) -> None:
    write_tiff(tmp_path / "in/a.tif", frame(), **BOTH)

    assert call("predict", run, tmp_path / "in", "-o", tmp_path / "out", "--geotiff")[0] == 0
    assert call("batch", run, tmp_path / "in", "-o", tmp_path / "many", "--geotiff")[0] == 0
    assert call("batch", run, tmp_path / "in", "-o", tmp_path / "x", "--geotiff", "--outputs", "mask,rle")[0] == 2

    (mask,) = (tmp_path / "many").rglob("*.tif")
    np.testing.assert_array_equal(read_mask(mask), read_mask(tmp_path / "out/masks/a.tif"))
