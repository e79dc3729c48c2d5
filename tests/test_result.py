"""Result: what people do with a mask. Areas, pictures, polygons, COCO's runs, probabilities, other libraries' types."""

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from segpipe import Outputs, Result, Segmenter, testing
from segpipe.contract.schema import Contract
from segpipe.errors import BackendMissingError, InputError
from segpipe.regions import Polygon, rings_beyond, run_lengths
from segpipe.runtime.confidence import confidence

ROAD = Contract(classes=("road", "car", "sky"), fit="pad")
COLOURS = ((10, 20, 30), (200, 0, 0), (0, 0, 200))


def result_of(mask: Any, contract: Contract = ROAD, **more: Any) -> Result:
    palette = COLOURS if contract is ROAD else testing.palette_of(contract)
    return Result(np.asarray(mask, contract.mask_dtype), contract, palette, **more)


def runs_of(text: str) -> list[int]:
    """COCO's text back to run lengths, as its C code reads it."""
    runs: list[int] = []
    at = 0
    while at < len(text):
        value, shift, more = 0, 0, True
        while more:
            bits = ord(text[at]) - 48
            value |= (bits & 0x1F) << shift
            at, shift, more = at + 1, shift + 5, bool(bits & 0x20)
            if not more and bits & 0x10:
                value |= -1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs


def painted(pieces: list[Polygon], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    canvas = np.zeros(shape, np.uint8)
    for piece in pieces:
        cv2.fillPoly(canvas, [piece.outline, *piece.holes], 1)
    return canvas


def many_classes() -> Contract:
    return Contract(classes=tuple(f"class {n}" for n in range(300)), fit="pad", ignore_index=65535)


MASKS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 255])
)


def test_areas_count_every_class_and_leave_out_what_is_none() -> None:
    areas = result_of([[0, 0, 1, 255]]).areas()

    assert areas == {"road": (2, 0.5), "car": (1, 0.25), "sky": (0, 0.0)}


def test_a_class_has_its_name_by_number() -> None:
    assert result_of([[1]]).classes[1] == "car"


def test_the_line_names_the_largest_classes_and_counts_the_others() -> None:
    mask = np.arange(300, dtype=np.uint16).reshape(30, 10)
    mask[mask < 10] = 7

    line = repr(result_of(mask, many_classes()))

    assert line.startswith("Result(30x10: class 7 3.3 %, ")
    assert line.endswith("285 more)")
    assert repr(result_of([[255]])) == "Result(1x1: no class)"


def test_colours_and_overlays_follow_the_palette() -> None:
    frame = np.full((1, 3, 3), 100, np.uint8)
    result = result_of([[0, 1, 255]])

    assert result.colour().tolist() == [[[10, 20, 30], [200, 0, 0], [128, 128, 128]]]
    assert result.overlay(frame).tolist() == [[[55, 60, 65], [150, 50, 50], [114, 114, 114]]]
    assert (result.overlay(frame, alpha=0) == frame).all()
    assert (result.overlay(frame, alpha=1) == result.colour()).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_an_overlay_refuses_an_alpha_outside_0_to_1(alpha: float) -> None:
    with pytest.raises(InputError, match="0 to 1"):
        result_of([[0]]).overlay(np.zeros((1, 1, 3), np.uint8), alpha)


def test_an_overlay_refuses_a_frame_of_another_size() -> None:
    with pytest.raises(InputError, match="the frame is 2x1, its mask 1x1"):
        result_of([[0]]).overlay(np.zeros((2, 1, 3), np.uint8))


@pytest.mark.parametrize(
    ("channels", "dtype", "high"), [(1, "uint16", 65535.0), (3, "float32", 1.0), (5, "uint8", 255.0)]
)
def test_frames_of_every_type_can_lie_under_the_colours(channels: int, dtype: Any, high: int) -> None:
    contract = Contract(
        classes=("a", "b"), fit="pad", channels=channels, channel_order="as_is", dtype=dtype, value_range=(0, high),
        mean=(0.0,) * channels, std=(1.0,) * channels,
    )  # fmt: skip
    frame = np.full((2, 3, channels), high, dtype)
    frame.flags.writeable = False

    picture = result_of(np.zeros((2, 3)), contract).overlay(frame, alpha=0)

    assert (picture == 255).all()
    assert picture.shape == (2, 3, 3)


@given(mask=MASKS)
@settings(deadline=None)
def test_polygons_paint_exactly_their_class(mask: NDArray[np.uint8]) -> None:
    polygons = result_of(mask).polygons()

    assert [*polygons] == ["road", "car", "sky"]
    for number, pieces in enumerate(polygons.values()):
        np.testing.assert_array_equal(painted(pieces, mask.shape), mask == number)


@given(mask=MASKS)
@settings(deadline=None)
def test_rings_are_counted_without_making_them(mask: NDArray[np.uint8]) -> None:
    polygons = result_of(mask).polygons()
    rings = sum(1 + len(piece.holes) for pieces in polygons.values() for piece in pieces)

    assert rings_beyond(mask, 3, rings) == 0
    assert rings_beyond(mask, 3, rings - 1) == rings


def test_polygons_tell_holes_from_pieces() -> None:
    mask = np.zeros((7, 9), np.uint8)
    mask[1:6, 1:6] = 1
    mask[3, 3] = 2
    mask[0, 8] = 1

    cars = sorted(result_of(mask).polygons()["car"], key=lambda piece: len(piece.outline))

    assert [len(piece.holes) for piece in cars] == [0, 1]
    assert cars[0].outline.tolist() == [[8, 0]]
    assert sorted(map(tuple, cars[1].outline.tolist())) == [(1, 1), (1, 5), (5, 1), (5, 5)]
    assert (3, 3) not in set(map(tuple, cars[1].holes[0].tolist()))


def test_runs_are_those_of_pycocotools() -> None:
    """Its `encode` gives these texts for these classes."""
    mask = np.zeros((4, 5), np.uint8)
    mask[1:3, 1:4] = 1
    mask[3, 4] = 2

    assert result_of(mask).rle() == {
        "road": {"size": [4, 5], "counts": "052M0002O"},
        "car": {"size": [4, 5], "counts": "5220003"},
        "sky": {"size": [4, 5], "counts": "c01"},
    }


@given(mask=MASKS)
@settings(deadline=None)
def test_runs_go_down_the_columns_and_back_to_the_mask(mask: NDArray[np.uint8]) -> None:
    for number, name in enumerate(ROAD.classes):
        found = result_of(mask).rle()[name]
        runs = runs_of(found["counts"])
        column = np.repeat(np.arange(len(runs)) % 2, runs)

        assert found["size"] == [*mask.shape]
        np.testing.assert_array_equal(column.reshape(mask.shape[::-1]).T, mask == number)


def test_long_runs_survive_the_text() -> None:
    mask = np.zeros((1000, 2000), np.uint8)
    mask[:, 3] = mask[5, 1000:] = 1

    assert runs_of(result_of(mask).rle()["car"]["counts"]) == run_lengths(mask, 2)[1].tolist()


def test_probabilities_are_those_behind_mask_and_confidence(tmp_path: Path) -> None:
    frame, _ = testing.make_frame(41, 59)
    with Segmenter.open(testing.make_run(tmp_path / "run")) as segmenter:
        result = segmenter.detail(frame, Outputs(confidence=True, scores=True))
    sure = result.probabilities()

    assert sure.shape == (4, 41, 59)
    np.testing.assert_allclose(sure.sum(0), 1, rtol=1e-5)
    np.testing.assert_allclose(
        np.take_along_axis(sure, result.mask[None].astype(int), 0)[0], result.confidence, rtol=1e-4
    )


def test_probabilities_at_network_size_lie_on_the_mask(tmp_path: Path) -> None:
    contract = testing.CONTRACT.model_copy(update={"fit": "letterbox", "network_size": (64, 96)})
    frame, _ = testing.make_frame(100, 30)
    with Segmenter.open(testing.make_run(tmp_path / "run", contract)) as segmenter:
        result = segmenter.detail(frame, Outputs(scores=True, at_network_size=True))

    assert result.probabilities().shape == (4, 64, 96)
    assert (result.probabilities().argmax(0) == result.mask).mean() > 0.999  # but for ties
    with pytest.raises(InputError, match="without at_network_size"):
        result.overlay(frame)


@pytest.mark.parametrize("kind", ["sigmoid", "probabilities"])
def test_probabilities_of_every_kind_of_output_agree_with_confidence(kind: Any) -> None:
    contract = Contract(classes=("ground", "thing"), fit="pad", output_kind=kind, threshold=0.7)
    scores = np.random.default_rng(0).random((contract.score_channels, 5, 7), np.float32)
    sure = confidence(scores, contract, contract.place(5, 7))
    thing = scores[0] >= np.log(0.7 / 0.3) if kind == "sigmoid" else scores.argmax(0)

    found = result_of(thing, contract, scores=scores).probabilities()

    np.testing.assert_allclose(np.where(thing, found[1], found[0]), sure, rtol=1e-5)


def test_probabilities_need_scores_and_a_network_that_has_them() -> None:
    labels = ROAD.model_copy(update={"output_kind": "labels"})

    with pytest.raises(InputError, match=r"Outputs\(scores=True\)"):
        result_of([[0]]).probabilities()
    with pytest.raises(InputError, match="gives labels"):
        Result(np.zeros((1, 1), np.uint8), labels, COLOURS).probabilities()


def test_detections_hold_one_entry_for_each_class_in_the_frame() -> None:
    sure = np.array([[0.5, 0.5, 1.0], [0.5, 0.5, 0.0]], np.float32)
    found = result_of([[0, 0, 2], [0, 0, 2]], confidence=sure)._detections()

    assert found["xyxy"].tolist() == [[0, 0, 1, 1], [2, 0, 2, 1]]
    assert found["class_id"].tolist() == [0, 2]
    assert found["data"]["class_name"].tolist() == ["road", "sky"]
    assert found["confidence"].tolist() == [0.5, 0.5]
    assert found["mask"].dtype == np.bool_
    assert found["mask"].sum((1, 2)).tolist() == [4, 2]


def test_a_mask_without_classes_gives_no_detections() -> None:
    found = result_of([[255, 255]])._detections()

    assert found["xyxy"].shape == (0, 4)
    assert found["mask"].shape == (0, 1, 2)
    assert found["confidence"] is None


def test_without_supervision_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)  # Python then finds none

    with pytest.raises(BackendMissingError, match="pip install supervision"):
        result_of([[0]]).to_supervision()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3000, 2), (40, 50)])
def test_notebooks_get_a_small_picture_with_a_legend(shape: tuple[int, int]) -> None:
    data = result_of(np.ones(shape))._repr_png_()
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)

    assert picture is not None
    assert picture[0, 0].tolist() == [0, 0, 200]  # blue, green, red
    assert max(picture.shape) <= 1024 + 60
    assert picture.shape[1] >= 240


def test_three_hundred_classes_go_through_everything() -> None:
    mask = np.arange(300, dtype=np.uint16).reshape(20, 15)
    mask[0, 0] = 65535
    result = result_of(mask, many_classes())

    assert result.areas()["class 0"].pixels == 0
    assert result.polygons()["class 299"][0].outline.tolist() == [[14, 19]]
    assert runs_of(result.rle()["class 299"]["counts"]) == [299, 1]
    assert len(result._detections()["class_id"]) == 299
    assert result.colour()[0, 0].tolist() == [128] * 3


def test_a_mask_that_nobody_may_write_is_enough() -> None:
    mask = np.zeros((4, 4), np.uint8)
    mask.flags.writeable = False
    result = Result(mask, ROAD, COLOURS)

    assert painted(result.polygons()["road"], (4, 4)).all()
    assert result.overlay(np.zeros((4, 4, 3), np.uint8)).shape == (4, 4, 3)


def test_what_is_written_into_the_mask_counts_in_every_answer() -> None:
    result = result_of([[0, 0], [1, 2]])
    result.areas()

    result.mask[:] = 2

    assert [area.pixels for area in result.areas().values()] == [0, 0, 4]
    assert [len(pieces) for pieces in result.polygons().values()] == [0, 0, 1]
    assert repr(result) == "Result(2x2: sky 100.0 %)"


@pytest.mark.parametrize("alpha", [True, None, "0.5", float("nan")])
def test_an_alpha_that_is_no_number_from_0_to_1_is_refused(alpha: Any) -> None:
    with pytest.raises(InputError, match="alpha is"):
        result_of([[0]]).overlay(np.zeros((1, 1, 3), np.uint8), alpha)


@pytest.mark.parametrize(
    "mask",
    [[[0, 1]], np.zeros((2, 2), np.int32), np.ones((2, 2), bool), np.zeros((0, 5), np.uint8), np.zeros(4, np.uint8)],
    ids=["list", "int32", "bool", "empty", "flat"],
)
@pytest.mark.parametrize("ask", [Result.areas, Result.colour, Result.polygons, Result.rle, Result._repr_png_])
def test_a_mask_made_by_hand_of_another_kind_is_refused(mask: Any, ask: Any) -> None:
    with pytest.raises(InputError, match=r"wanted is HxW|arrays are numpy's"):
        ask(Result(mask, ROAD, COLOURS))
