"""What a Segmenter takes as a frame: one picture gives one mask in every form, and what is none is refused."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segpipe import Outputs, Segmenter, testing
from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.media.images import encode_png
from tests.host_device import HostDevice
from tests.interface import Interface

SIZE = (40, 60)
FRAME, _ = testing.make_frame(*SIZE)
GREY = Contract(
    classes=("dark", "light"), fit="pad", size_multiple=4, output_stride=4, channels=1, mean=(0.0,), std=(1.0,)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return testing.make_run(tmp_path_factory.mktemp("frames") / "run")


@pytest.fixture(scope="module")
def mask(segmenter: Segmenter) -> NDArray[Any]:
    return segmenter(FRAME)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a street.png"
    path.write_bytes(png())
    return path


def png(pixels: NDArray[Any] = FRAME) -> bytes:
    return encode_png(Path("frame.png"), pixels)


def turned_jpeg(pixels: NDArray[Any]) -> bytes:
    """A JPEG that lies on its side, with the note how to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    data = io.BytesIO()
    Image.fromarray(np.rot90(pixels)).save(data, "JPEG", exif=exif, quality=100, subsampling=0)
    return data.getvalue()


class OnlyArray:
    """Something that numpy can read, and says nothing else of itself."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._pixels = pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._pixels, dtype)


def frozen(pixels: NDArray[Any]) -> NDArray[Any]:
    copy = pixels.copy()
    copy.flags.writeable = False
    return copy


FORMS: dict[str, Callable[[], Any]] = {
    "an array nobody may write": lambda: frozen(FRAME),
    "a tensor": lambda: torch.from_numpy(FRAME),
    "a tensor of planes, seen as HxWxC": lambda: torch.from_numpy(FRAME.transpose(2, 0, 1).copy()).permute(1, 2, 0),
    "PIL": lambda: Image.fromarray(FRAME),
    "PIL, not yet read": lambda: Image.open(io.BytesIO(png())),
    "bytes": png,
    "bytearray": lambda: bytearray(png()),
    "memoryview": lambda: memoryview(png()),
    "__array__": lambda: OnlyArray(FRAME),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_a_picture_gives_the_same_mask(
    segmenter: Segmenter, mask: NDArray[Any], form: Callable[[], Any]
) -> None:
    assert (segmenter(form()) == mask).all()
    assert (segmenter.tiled(form()) == segmenter.tiled(FRAME)).all()
    assert (segmenter.detail(form(), Outputs(confidence=True)).mask == mask).all()
    assert (segmenter.detail(form()).overlay(form()) == segmenter.detail(FRAME).overlay(FRAME)).all()


@pytest.mark.parametrize("kind", [str, Path, os.fsencode])
def test_a_picture_may_be_named(
    segmenter: Segmenter, mask: NDArray[Any], picture: Path, kind: Callable[[Path], Any]
) -> None:
    if kind is os.fsencode:
        with pytest.raises(InputError, match="not an image"):  # bytes are an image's content, no path
            segmenter(kind(picture))
    else:
        assert (segmenter(kind(picture)) == mask).all()


def test_lists_and_streams_take_all_forms_mixed(segmenter: Segmenter, mask: NDArray[Any], picture: Path) -> None:
    mixed = [FRAME, picture, str(picture), png(), Image.fromarray(FRAME), torch.from_numpy(FRAME)]

    for found in (segmenter(mixed), segmenter(tuple(mixed)), list(segmenter.stream(mixed))):
        assert len(found) == len(mixed)
        assert all((one == mask).all() for one in found)


def test_a_batch_may_be_a_tensor(segmenter: Segmenter, mask: NDArray[Any]) -> None:
    found = segmenter(torch.from_numpy(np.stack([FRAME, FRAME[::-1]])))

    assert found.shape == (2, *SIZE)
    assert (found[0] == mask).all()


def test_order_bgr_is_for_arrays_and_files_know_theirs(run: Path, mask: NDArray[Any], picture: Path) -> None:
    turned = cv2.imread(str(picture))
    assert turned is not None
    tensor = torch.from_numpy(turned)
    with Segmenter.open(run, order="bgr") as segmenter:
        for frame in (turned, turned[:, :], tensor, OnlyArray(turned), picture, png(), Image.fromarray(FRAME)):
            assert (segmenter(frame) == mask).all()
            assert (segmenter.detail(frame).overlay(frame, alpha=0) == turned).all()
        assert (segmenter.tiled(turned) == segmenter.tiled(picture)).all()
        assert (segmenter.detail(turned).colour()[:, :, ::-1] == Segmenter.open(run).detail(FRAME).colour()).all()


def test_handing_over_a_bgr_frame_does_not_change_it(run: Path) -> None:
    frame = FRAME[:, :, ::-1].copy()
    with Segmenter.open(run, order="bgr") as segmenter:
        segmenter(frame)

    assert (frame == FRAME[:, :, ::-1]).all()


@pytest.mark.parametrize("order", ["bgr", "RGB", "grb"])
def test_an_order_that_says_nothing_of_the_frames_is_refused(tmp_path: Path, order: Any) -> None:
    grey = testing.make_run(tmp_path / "grey", GREY)

    with pytest.raises(InputError, match="order"):
        Segmenter.open(grey, order=order)


def test_a_photograph_on_its_side_is_turned_upright(segmenter: Segmenter, tmp_path: Path) -> None:
    data = turned_jpeg(FRAME)
    path = tmp_path / "photograph.jpg"
    path.write_bytes(data)
    masks = [segmenter(form) for form in (data, path, Image.open(io.BytesIO(data)))]

    assert {one.shape for one in masks} == {SIZE}
    assert (masks[0] == masks[1]).all()
    assert (masks[2] == masks[1]).mean() > 0.99  # two decoders
    assert segmenter.detail(data).overlay(data).shape == (*SIZE, 3)


def test_none_asks_for_the_file(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match=r"the frame is None.*imread.*path"):
        segmenter(cv2.imread("/nowhere/frame.png"))  # type: ignore[arg-type]  # as mypy says, too


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "I", "I;16B", "HSV", "LAB", "YCbCr", "RGBX", "PA"])
def test_pil_modes_whose_numbers_are_no_colours_are_refused(segmenter: Segmenter, mode: str) -> None:
    with pytest.raises(InputError, match=rf"mode {mode}\. pass image.convert\('RGB'\)"):
        segmenter(Image.new(mode, (8, 8)))


@pytest.mark.parametrize(
    ("mode", "words"), [("L", "8-bit grey"), ("RGBA", "8-bit RGB with transparency"), ("F", "float32")]
)
def test_pil_images_and_files_of_other_channels_are_refused_in_the_same_words(
    segmenter: Segmenter, mode: str, words: str
) -> None:
    image = Image.new(mode, (8, 8))
    forms: list[Any] = [image]
    if mode != "F":
        data = io.BytesIO()
        image.save(data, "PNG")
        forms.append(data.getvalue())

    for form in forms:
        with pytest.raises(InputError, match=f"is {words}.*, the network takes 8-bit RGB"):
            segmenter(form)


def test_grey_networks_take_grey_pictures(tmp_path: Path) -> None:
    plane = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    with Segmenter.open(testing.make_run(tmp_path / "grey", GREY)) as segmenter:
        wanted = segmenter(plane[:, :, None])
        for form in (plane, Image.fromarray(plane), png(plane), torch.from_numpy(plane)):
            assert (segmenter(form) == wanted).all()
        with pytest.raises(InputError, match=r"image.convert\('L'\)"):
            segmenter(Image.new("P", (8, 8)))


def test_planes_are_refused_with_the_way_to_turn_them(segmenter: Segmenter) -> None:
    planes = FRAME.transpose(2, 0, 1)
    for frame in (planes, torch.from_numpy(planes.copy())):
        with pytest.raises(InputError, match=r"looks like CxHxW.*transpose.*permute"):
            segmenter(frame)


def test_a_tensor_that_is_both_hxwxc_and_cxhxw_is_refused(segmenter: Segmenter) -> None:
    frame = np.ascontiguousarray(FRAME[:3, :, :])

    with pytest.raises(InputError, match="3x60x3 is HxWxC or CxHxW"):
        segmenter(torch.from_numpy(frame))
    assert segmenter(frame).shape == (3, 60)


@pytest.mark.parametrize(
    "frame",
    [
        torch.zeros((*SIZE, 3), dtype=torch.bfloat16),
        torch.zeros((*SIZE, 3), requires_grad=True),
        torch.zeros((*SIZE, 3), dtype=torch.uint8).to_sparse(),
        torch.zeros((*SIZE, 3)),
    ],
    ids=["bfloat16", "gradient", "sparse", "float32"],
)
def test_tensors_that_are_no_frames_are_refused(segmenter: Segmenter, frame: Any) -> None:
    with pytest.raises(InputError):
        segmenter(frame)


def test_arrays_in_a_gpus_memory_are_refused_on_the_cpu(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="in a GPU's memory"):
        segmenter(Interface(FRAME))


@pytest.mark.parametrize("frame", [3, 2.5, object(), {"a": 1}, [[1, 2], [3, 4]], lambda: 0])
def test_what_is_no_picture_is_refused_with_what_would_be(segmenter: Segmenter, frame: Any) -> None:
    with pytest.raises(InputError, match="a frame is an array, a PIL image, a path or an encoded image, got"):
        segmenter(frame)


@pytest.mark.parametrize("data", [b"", b"no picture", png()[:200], turned_jpeg(FRAME)[:300], b"\x89PNG", b"\xff\xd8"])
def test_torn_and_foreign_bytes_are_refused(segmenter: Segmenter, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "torn"
    path.write_bytes(data)

    with pytest.raises(InputError, match=f"the image of {len(data)} bytes is"):
        segmenter(data)
    with pytest.raises(InputError, match="torn is"):
        segmenter(path)


def test_a_torn_pil_image_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="the picture is damaged"):
        segmenter(Image.open(io.BytesIO(png()[:-200])))


@pytest.mark.parametrize("name", ["", ".", "nowhere.png", "a\0b", "x" * 5000])
def test_names_of_no_file_are_refused(segmenter: Segmenter, name: str) -> None:
    with pytest.raises(InputError):
        segmenter(name)


def test_a_file_too_large_is_refused_before_it_is_decoded(segmenter: Segmenter, run: Path) -> None:
    claims = bytearray(png())
    struct.pack_into(">II", claims, 16, 20000, 15000)  # what the header says of width and height

    with pytest.raises(InputError, match=r"15000x20000.*tiled"):
        segmenter(bytes(claims))
    with pytest.raises(InputError, match=r"15000x20000.*pass the array"):
        segmenter.tiled(bytes(claims))
    with Segmenter.open(run) as small:
        small.max_pixels = 100
        for form in (FRAME, png(), Image.fromarray(FRAME), torch.from_numpy(FRAME)):
            with pytest.raises(InputError, match="40x60, more than 100 pixels"):
                small(form)


def test_a_file_that_is_not_the_overlays_frame_is_not_decoded(segmenter: Segmenter) -> None:
    other, _ = testing.make_frame(80, 60)

    with pytest.raises(InputError, match="80x60"):
        segmenter.detail(FRAME).overlay(png(other))
    with pytest.raises(InputError, match="the frame is 60x40, its mask 40x60"):
        segmenter.detail(FRAME).overlay(np.ascontiguousarray(FRAME.transpose(1, 0, 2)))


def test_on_a_gpu_backend_the_hosts_frames_come_in_every_form(segmenter: Segmenter, run: Path) -> None:
    class OnGpu:
        """A backend that keeps what it is given."""

        name, device = "kept", HostDevice.name

        def infer(self, frames: list[Any], outputs: Outputs) -> Any:
            self.frames = frames
            return segmenter._backend.infer([FRAME] * len(frames), outputs)  # type: ignore[union-attr]

        def describe(self) -> dict[str, Any]:
            return {}

    backend: Any = OnGpu()
    there = Segmenter(backend, testing.CONTRACT, testing.PALETTE)
    held = Interface(FRAME)

    there([png(), torch.from_numpy(FRAME), Image.fromarray(FRAME), held])

    assert all((frame == FRAME).all() for frame in backend.frames[:3])
    assert backend.frames[3] is held
    with pytest.raises(InputError, match="order 'bgr' is not known"):
        Segmenter(backend, testing.CONTRACT, testing.PALETTE, order="bgr")(held)


class Raises:
    """An array of a library that fails when it is asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise self._error


class Lends:
    """A tensor that names its memory, and cannot lend it."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class Misleads(Lends):
    """The same with a lending that fails."""

    def __dlpack__(self, **_: Any) -> Any:
        raise ValueError("not today")


def closed_picture() -> Image.Image:
    picture = Image.open(io.BytesIO(png()))
    picture.close()
    return picture


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ("\ud800.png", "is not a path"),
        (torch.zeros((*SIZE, 3), dtype=torch.uint8, device="meta"), "does not say where it lies"),
        (Lends(), "cannot read the tensor"),
        (Misleads(), "cannot read the tensor: not today"),
        (Raises(RuntimeError("no")), "cannot read the Raises: no"),
        (closed_picture(), "damaged or closed"),
        (np.ma.masked_array(FRAME, FRAME > 100), "masked array"),
    ],
    ids=["surrogate", "meta", "no lending", "failed lending", "failed array", "closed", "masked"],
)
def test_what_cannot_be_read_is_one_line(segmenter: Segmenter, frame: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        segmenter(frame)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_turn_that_exif_does_not_tell_is_done_in_no_form(segmenter: Segmenter, kind: str) -> None:
    data = io.BytesIO()
    note = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    Image.fromarray(FRAME).save(data, kind, xmp=note, quality=100)
    picture = Image.open(io.BytesIO(data.getvalue()))

    by_bytes, by_pil = segmenter([data.getvalue(), picture])

    np.testing.assert_array_equal(by_bytes, by_pil)
    assert by_pil.shape == SIZE


def several() -> bytes:
    data = io.BytesIO()
    Image.fromarray(FRAME).save(data, "TIFF", save_all=True, append_images=[Image.fromarray(FRAME[::-1])])
    return data.getvalue()


def deep(suffix: str) -> bytes:
    return cv2.imencode(suffix, FRAME.astype(np.uint16) * 257)[1].tobytes()


@pytest.mark.parametrize("content", [several(), deep(".png"), deep(".tiff"), deep(".ppm")])
def test_what_is_refused_as_a_file_is_refused_opened_by_pil(segmenter: Segmenter, content: bytes) -> None:
    with pytest.raises(InputError):
        segmenter(content)
    with pytest.raises(InputError, match=r"holds 2 pictures|is 16-bit"):
        segmenter(Image.open(io.BytesIO(content)))

    assert segmenter(Image.open(io.BytesIO(content)).copy()).shape == SIZE
