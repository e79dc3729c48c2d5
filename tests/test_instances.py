"""Instances, light: rows of a network to things in the frame, run lengths, the panoptic map, the runtime."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segpipe.contract.schema import METADATA_KEY, FrameContract, InstanceContract, Placement, SemanticContract
from segpipe.errors import BackendError, ContractError, InputError
from segpipe.id_maps import NO_CLASS, UNLABELLED, Crop, classes_in, things_in
from segpipe.instances import Instances, crop_rle
from segpipe.regions import compressed, run_lengths
from segpipe.runtime.backends import onnxruntime
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.pasting import LONGEST_SIDE, pasted_canvases
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.serving.answers import kinds_of
from segpipe.tasks import task_of
from tests.tiny import contract_fields

SIDE, STRIDE = 32, 4
CONTRACT = InstanceContract(
    network_size=(SIDE, SIDE),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    classes=("ground", "disc", "box"),
    things=("disc", "box"),
    top=4,
    semantic_name="semantic",
    dense_names=("heat",),
)
PALETTE = ((10, 10, 10), (250, 0, 0), (0, 0, 250))
IOU_OF_SAMPLING = 0.9  # OpenCV's warps place pixels to a 32nd of a cell: only borders move


def tensors(contract: InstanceContract = CONTRACT, **changed: Any) -> dict[str, NDArray[Any]]:
    """One frame's outputs: a disc at the left, a box at the right, two rows that are no answers."""
    cells = SIDE // STRIDE
    masks = np.full((4, cells, cells), -5, np.float32)
    masks[0, 2:6, 0:4] = 5
    masks[1, 0:4, 5:8] = 5
    semantic = np.zeros((3, cells, cells), np.float32)
    semantic[0] = 1
    found: dict[str, Any] = {
        "boxes": np.array([[0, 8, 16, 24], [20, 0, 32, 16], [0, 0, 4, 4], [0, 0, 4, 4]], np.float32),
        "scores": np.array([0.9, 0.6, 0.01, 0.0], np.float32),
        "labels": np.array([0, 1, 0, 0], np.int64),
        "masks": masks,
        "semantic": semantic,
        "heat": np.ones((2, cells, cells), np.float32),
    }
    return {name: array for name, array in (found | changed).items() if name in contract.output_names}


def decoded(size: tuple[int, int] = (SIDE, SIDE), contract: InstanceContract = CONTRACT, **changed: Any) -> Instances:
    answer = task_of(contract).decode(tensors(contract, **changed), contract.place(*size), Outputs())
    assert isinstance(answer, Instances)
    return answer


def constant_graph(contract: InstanceContract = CONTRACT) -> bytes:
    """A network that says the same of every frame."""
    free: list[str | int | None] = ["batch", 3, SIDE, SIDE]
    nodes, outputs, constants = [], [], []
    nodes.append(helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0))
    nodes.append(helper.make_node("Mul", ["mean", "nought"], ["nothing"]))
    constants.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "nought"))
    for name, array in tensors(contract).items():
        kind = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        shape = np.array([-1, *[1] * array.ndim], np.int64)
        constants.append(onnx.numpy_helper.from_array(array[None], f"{name}_value"))
        constants.append(onnx.numpy_helper.from_array(shape, f"{name}_shape"))
        nodes.append(helper.make_node("Reshape", ["nothing", f"{name}_shape"], [f"{name}_zero"]))
        nodes.append(helper.make_node("Cast", [f"{name}_zero"], [f"{name}_typed"], to=kind))
        nodes.append(helper.make_node("Add", [f"{name}_value", f"{name}_typed"], [name]))
        outputs.append(helper.make_tensor_value_info(name, kind, ["batch", *array.shape]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, free)
    graph = helper.make_graph(nodes, "things", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model)
    return model.SerializeToString()


def segmenter() -> InstanceSegmenter:
    backend = onnxruntime.open(constant_graph(), CONTRACT, OpenOptions(threads=1))
    return InstanceSegmenter(backend, CONTRACT, PALETTE)


def frame(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


# the contract


def test_an_instance_contract_comes_back_from_its_json_as_itself() -> None:
    back = FrameContract.from_json(CONTRACT.to_json(), "here")

    assert back == CONTRACT
    assert back.sha256 == CONTRACT.sha256


def test_a_semantic_contract_says_no_task_and_is_no_instance_contract() -> None:
    text = SemanticContract(**contract_fields()).to_json()

    assert '"task"' not in text
    with pytest.raises(ContractError, match="task 'semantic', wanted 'instances'"):
        InstanceContract.from_json(text, "here")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"things": ("cat",)}, "things names what is no class"),
        ({"things": ("box", "box")}, "things must differ"),
        ({"heat_name": "x"}, "Extra inputs"),
        ({"boxes_name": "scores"}, "tensors must have a name each"),
        ({"boxes_name": "image"}, "tensors must have a name each"),
        ({"top": 0}, "greater than or equal to 1"),
    ],
)
def test_contradictions_in_an_instance_contract_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InstanceContract.model_validate(CONTRACT.model_dump() | wrong)


# decoding


def test_rows_under_the_threshold_are_no_answers() -> None:
    found = decoded()

    assert found.names == ["disc", "box"]
    assert found.scores.tolist() == pytest.approx([0.9, 0.6])
    assert not found.exceeded


def test_rows_come_by_falling_score_whatever_their_order() -> None:
    found = decoded(scores=np.array([0.3, 0.8, 0.5, 0.4], np.float32))

    assert found.scores.tolist() == pytest.approx([0.8, 0.5, 0.4, 0.3])
    assert found.names == ["box", "disc", "disc", "disc"]


def test_a_network_whose_rows_are_all_answers_says_that_there_may_be_more() -> None:
    found = decoded(scores=np.full(4, 0.5, np.float32))

    assert found.exceeded
    assert "maybe more" in repr(found)


def test_rows_with_a_number_that_is_none_are_no_answers() -> None:
    boxes = tensors()["boxes"].copy()
    boxes[1, 2] = np.inf
    found = decoded(scores=np.array([np.nan, 0.9, 0.5, 0.5], np.float32), boxes=boxes, labels=np.array([0, 0, 7, -1]))

    assert len(found) == 0
    assert found.boxes.shape == (0, 4)


def test_a_label_that_comes_as_a_float_is_the_nearest_number() -> None:
    found = decoded(labels=np.array([0.999, 0.002, 0, 0], np.float32), scores=np.array([0.9, 0.8, 0, 0], np.float32))

    assert found.labels.tolist() == [1, 0]


def test_a_network_of_boxes_alone_is_asked_for_no_id_map() -> None:
    boxes = CONTRACT.model_copy(update={"masks": "none", "semantic_name": ""})
    backend = onnxruntime.open(constant_graph(), CONTRACT, OpenOptions(threads=1))

    assert [kind.name for kind in kinds_of(InstanceSegmenter(backend, boxes, PALETTE))] == [
        "application/json",
        "image/png; show=overlay",
    ]


def test_masks_that_would_fill_the_memory_are_refused_before_one_is_made() -> None:
    contract = CONTRACT.model_copy(update={"top": 400})
    whole: dict[str, NDArray[Any]] = {
        "boxes": np.tile(np.array([0, 0, SIDE, SIDE], np.float32), (400, 1)),
        "scores": np.ones(400, np.float32),
        "labels": np.zeros(400, np.int64),
        "masks": np.zeros((400, 1, 1), np.float32),
    }
    with pytest.raises(InputError, match="the masks of 400 things would be 400 megapixels, at most 268 are made"):
        task_of(contract).decode(tensors() | whole, contract.place(1000, 1000), Outputs())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["boxes", "scores", "labels", "masks", "semantic"])
def test_a_tensor_of_no_numbers_is_an_answer_without_them_and_no_warning(name: str, value: float) -> None:
    broken: Any = {name: np.full_like(tensors()[name], value, np.float32)}
    found = decoded(**broken)

    assert np.isfinite(found.boxes).all()
    assert len(found) == (2 if name in {"masks", "semantic"} else 0)
    assert found.panoptic().shape == found.overlay(frame()).shape[:2] == (SIDE, SIDE)
    assert len(found.rle()) == len(found.coco()) == len(found)


def test_no_thing_at_all_is_an_answer() -> None:
    found = decoded(scores=np.zeros(4, np.float32))

    assert (len(found), found.rle(), found.coco(), found.polygons()) == (0, [], [], [])
    assert (found.panoptic() == 0).all()
    assert found.overlay(frame()).shape == (SIDE, SIDE, 3)


def test_boxes_and_masks_come_in_the_frames_own_pixels() -> None:
    found = decoded((2 * SIDE, 3 * SIDE))

    assert found.boxes[0].tolist() == pytest.approx([0, 16, 48, 48])
    assert found.mask(0)[20:44, 4:44].all()
    assert not found.mask(0)[:, 60:].any()


def test_boxes_are_cut_at_the_frames_edges() -> None:
    boxes = tensors()["boxes"].copy()
    boxes[0] = (-50, -50, 500, 500)
    found = decoded(boxes=boxes)

    assert found.boxes[0].tolist() == [0, 0, SIDE, SIDE]
    assert found.crops[0].mask.shape == (SIDE, SIDE)


def test_boxes_with_exchanged_edges_and_endless_ones_are_no_error() -> None:
    boxes = tensors()["boxes"].copy()
    boxes[:2] = (20, 20, 4, 4), (-3e38, -3e38, 3e38, 3e38)
    found = decoded((4 * SIDE, 4 * SIDE), boxes=boxes)

    assert found.boxes.tolist() == [[80, 80, 80, 80], [0, 0, 128, 128]]
    assert found.crops[0].area == 0
    assert found.coco()[0]["bbox"] == [80, 80, 0, 0]


def test_a_box_outside_the_frame_has_an_empty_mask() -> None:
    boxes = tensors()["boxes"].copy()
    boxes[0] = (-90, -90, -50, -50)
    found = decoded(boxes=boxes)

    assert found.crops[0].area == 0
    assert found.rle()[0]["size"] == [SIDE, SIDE]
    assert found.polygons()[0] == []


def test_a_letterboxed_frame_gets_its_things_without_the_bars() -> None:
    contract = CONTRACT.model_copy(update={"fit": "letterbox"})
    found = decoded((SIDE, 2 * SIDE), contract)  # the frame lies in rows 8 to 24 of the canvas

    assert found.boxes[0].tolist() == pytest.approx([0, 0, 32, 32])
    assert found.mask(0)[:, 2:28].all()


def test_boxed_masks_fill_their_boxes() -> None:
    contract = CONTRACT.model_copy(update={"masks": "boxed"})
    found = decoded(contract=contract, masks=np.full((4, 7, 7), 3, np.float32))

    assert found.mask(0).sum() == 16 * 16
    assert found.mask(0)[8:24, 0:16].all()


def test_a_network_of_boxes_alone_has_no_masks_to_ask_for() -> None:
    contract = CONTRACT.model_copy(update={"masks": "none", "semantic_name": ""})
    found = decoded(contract=contract)

    assert len(found.coco()) == 2
    assert "segmentation" not in found.coco()[0]
    with pytest.raises(InputError, match="boxes without masks"):
        found.rle()
    with pytest.raises(InputError, match="no class for every pixel"):
        found.class_map()


def test_tensors_of_another_shape_are_refused_by_name() -> None:
    with pytest.raises(BackendError, match=r"'scores' is \(3,\) for a frame, the contract says \(4,\)"):
        decoded(scores=np.zeros(3, np.float32))
    with pytest.raises(BackendError, match="'masks' is"):
        decoded(masks=np.zeros((3, 8, 8), np.float32))


def test_frames_longer_than_opencvs_warps_reach_are_refused() -> None:
    with pytest.raises(InputError, match="up to 32000 pixels a side"):
        decoded((8, LONGEST_SIDE + 1))


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(*[st.floats(-20, 60, width=32)] * 4),
    st.integers(0, 2**32 - 1),
)
def test_a_mask_in_its_box_is_what_a_mask_of_the_whole_frame_shows_there(
    size: tuple[int, int], box: tuple[float, ...], seed: int
) -> None:
    """Pixels of the crop against bilinear sampling by its definition, pixel by pixel."""
    logits = np.random.default_rng(seed).choice(np.array([-4, 4], np.float32), (4, 8, 8))
    boxes = np.tile(np.array(box, np.float32), (4, 1))
    found = decoded(size, boxes=boxes, masks=logits, scores=np.full(4, 0.9, np.float32))
    placement = CONTRACT.place(*size)

    for crop, scores in zip(found.crops, logits, strict=True):
        for row, column in np.argwhere(np.abs(_exact(scores, placement)) > 1):
            inside = crop.top <= row < crop.top + crop.mask.shape[0]
            if inside and crop.left <= column < crop.left + crop.mask.shape[1]:
                expected = _exact(scores, placement)[row, column] > 0
                assert crop.mask[row - crop.top, column - crop.left] == expected


def _exact(scores: NDArray[np.float32], placement: Placement) -> NDArray[np.float64]:
    """The scores at every pixel of the frame."""
    places = []
    for axis in (0, 1):
        centres = (np.arange(placement.source[axis]) + 0.5) / placement.source[axis] * scores.shape[axis] - 0.5
        places.append(centres)
    return _between(scores, places)


# what people do with them


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_run_lengths_of_a_crop_are_those_of_the_whole_mask(seed: int, height: int, width: int, full: bool) -> None:
    rng = np.random.default_rng(seed)
    whole = np.zeros((height, width), np.bool_)
    top, left = (0, 0) if full else (int(rng.integers(0, height)), int(rng.integers(0, width)))
    part = rng.random((height - top, width - left)) < 0.5
    whole[top:, left:] = part

    runs = run_lengths(whole.astype(np.uint8), 2)[1]
    assert crop_rle(Crop(part, left, top), (height, width)) == {"size": [height, width], "counts": compressed(runs)}


def test_polygons_lie_where_the_thing_is() -> None:
    found = decoded()
    (piece,) = found.polygons()[1]

    assert found.mask(1)[tuple(piece.outline.T[::-1])].all()


def test_the_panoptic_map_holds_each_thing_once_and_the_surface_beside_them() -> None:
    ids = decoded().panoptic()

    assert sorted(np.unique(ids).tolist()) == [0, 1001, 2001]
    assert [thing.label for thing in things_in(ids)] == [1, 2]


def test_of_two_things_on_one_place_the_surer_one_keeps_it() -> None:
    both = np.tile(tensors()["boxes"][:1], (4, 1))
    masks = np.tile(tensors()["masks"][:1], (4, 1, 1))
    scores = np.array([0.5, 0.9, 0, 0], np.float32)
    ids = decoded(boxes=both, masks=masks, scores=scores).panoptic()

    assert np.unique(ids).tolist() == [0, 2001]


def test_without_a_semantic_output_the_rest_of_the_map_is_unlabelled() -> None:
    contract = CONTRACT.model_copy(update={"semantic_name": ""})

    assert decoded(contract=contract).panoptic()[0, 0] == UNLABELLED


def test_unlabelled_pixels_are_no_class() -> None:
    ids = np.array([[0, 1001, 2000, UNLABELLED]], np.uint16)

    assert classes_in(ids).tolist() == [[0, 1, 2, NO_CLASS]]
    assert [thing.code for thing in things_in(ids)] == [1001]


def test_things_are_drawn_in_their_classes_colours() -> None:
    picture = decoded().shown_with(PALETTE, "rgb").overlay(frame())

    assert picture[21, 8].tolist() == [125, 0, 0]
    assert picture[31, 31].tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="the things are of one of"):
        decoded().overlay(frame(8, 8))


def test_cocos_results_name_categories_from_one_and_boxes_by_their_size() -> None:
    first = decoded().coco(image_id=7)[0]

    assert (first["image_id"], first["category_id"]) == (7, 1)
    assert first["bbox"] == [0, 8, 16, 16]
    assert first["segmentation"] == decoded().rle()[0]


# the runtime


def test_a_cpu_runs_instances_from_frames_to_things_one_by_one_in_lists_and_streams() -> None:
    frames = [frame(), frame(2 * SIDE, SIDE), frame()]

    with segmenter() as opened:
        one, several = opened(frames[0]), opened(frames)
        streamed = list(opened.stream(frames))
        stacked = opened(np.stack([frame(), frame()]))
    assert one.names == ["disc", "box"]
    assert one.palette == PALETTE
    assert [found.size for found in several] == [(SIDE, SIDE), (2 * SIDE, SIDE), (SIDE, SIDE)]
    assert [found.size for found in streamed] == [found.size for found in several]
    assert len(stacked) == 2


def test_several_threads_find_the_same_in_the_same_frames() -> None:
    frames = [frame(SIDE + number, 2 * SIDE) for number in range(8)]

    with segmenter() as opened, ThreadPoolExecutor(4) as threads:

        def told(one: NDArray[np.uint8]) -> list[Any]:
            return [*opened(one).coco(), *opened.tiled(one).coco()]

        assert [*threads.map(told, frames)] == [*map(told, frames)]


def test_what_rows_were_picked_from_comes_when_asked_for() -> None:
    with segmenter() as opened:
        assert opened(frame()).dense == {}
        assert opened.detail(frame(), Outputs(scores=True)).dense["heat"].shape == (2, 8, 8)
        assert opened.detail(frame(64, 64), Outputs(at_network_size=True)).size == (SIDE, SIDE)
        with pytest.raises(InputError, match="no confidence by pixel"):
            opened.detail(frame(), Outputs(confidence=True))


def test_a_closed_segmenter_of_things_says_so() -> None:
    opened = segmenter()
    opened.close()

    with pytest.raises(InputError, match="closed"):
        opened(frame())


# pasting


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(128, 256), (96, 96), (64, 32), (50, 70), (33, 47), (16, 8)])
def test_resized_masks_are_those_that_a_warp_samples(size: tuple[int, int], fit: str) -> None:
    """At frames of sizes that cells divide and that they do not."""
    contract = CONTRACT.model_copy(update={"fit": fit, "network_size": (64, 64)})
    placement, rng = contract.place(*size), np.random.default_rng(0)
    logits = rng.standard_normal((16, 16)).astype(np.float32)

    for _ in range(30):
        left, right = np.sort(rng.uniform(0, size[1], 2))
        top, bottom = np.sort(rng.uniform(0, size[0], 2))
        (crop,) = pasted_canvases([logits], np.array([[left, top, right, bottom]], np.float32), placement)
        rows, columns = crop.region
        exact = _exact_on(logits, placement)[rows, columns]
        sure = np.abs(exact) > SAMPLING
        assert crop.mask.shape == exact.shape
        assert (crop.mask == (exact > 0))[sure].all()


SAMPLING = 0.15  # a warp places pixels to a 32nd of a cell, between scores that differ by up to five


def _exact_on(scores: NDArray[np.float32], placement: Placement) -> NDArray[np.float64]:
    """The scores at every pixel of a frame that lies anywhere on the canvas."""
    places = []
    for axis in (0, 1):
        centres = (np.arange(placement.source[axis]) + 0.5) * placement.resized[axis] / placement.source[axis]
        centres = (centres + placement.offset[axis]) * scores.shape[axis] / placement.canvas[axis] - 0.5
        places.append(centres)
    return _between(scores, places)


def _between(scores: NDArray[np.float32], places: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Linearly between scores, at rows and columns counted in scores."""
    lines = []
    for axis, centres in enumerate(places):
        place = centres.clip(0, scores.shape[axis] - 1)
        first = np.floor(place).astype(int)
        lines.append((first, np.minimum(first + 1, scores.shape[axis] - 1), place - first))
    (top, bottom, down), (left, right, across) = lines
    upper = scores[top][:, left] * (1 - across) + scores[top][:, right] * across
    lower = scores[bottom][:, left] * (1 - across) + scores[bottom][:, right] * across
    return upper * (1 - down[:, None]) + lower * down[:, None]
