"""Things of frames cut into tiles: each once, and whole. The network is an oracle: it reads what was painted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract
from segpipe.id_maps import Crop, tight
from segpipe.instances import Instances, coco_document
from segpipe.runtime.instance_segmenter import InstanceSegmenter
from segpipe.runtime.request import Outputs
from segpipe.runtime.tiling import Tiling
from segpipe.tasks.merging import Part, Rect, merged
from tests.test_instances import CONTRACT, PALETTE

TILE = 32
EXACT = CONTRACT.model_copy(update={"output_stride": 1, "dense_names": ()})
BOXES_ALONE = EXACT.model_copy(update={"masks": "none", "semantic_name": ""})
Painted = tuple[int, int, int, int, int]
"""Left, top, right, bottom, label."""


class Oracle:
    """Red is the number of a thing, green one more than its label; blue: it ends early. A tile of its size, no more."""

    name, device = "oracle", "cpu"

    def __init__(self, contract: InstanceContract, top: int = 99) -> None:
        self.contract, self.top, self.seen = contract, top, 0

    def infer(self, frames: Sequence[Any], outputs: Outputs) -> list[Instances]:
        return [self._found(frame) for frame in frames]

    def describe(self) -> dict[str, Any]:
        return {"threads": 1}

    def close(self) -> None: ...

    def warm_up(self, frames: Sequence[Any], lanes: int) -> None: ...

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        return np.empty((height, width, 3), np.uint8)

    def _found(self, frame: NDArray[Any]) -> Instances:
        assert frame.shape[:2] == (TILE, TILE)
        self.seen += 1
        numbers = [number for number in np.unique(frame[:, :, 0]).tolist() if number][: self.top]
        crops = tuple(tight(frame[:, :, 0] == number) for number in numbers)
        sides = [(c.left, c.top, c.left + c.mask.shape[1], c.top + c.mask.shape[0]) for c in crops]
        return Instances(
            boxes=np.array(sides, np.float32).reshape(-1, 4),
            scores=np.array([1 - number / 100 for number in numbers], np.float32),
            labels=np.array([frame[frame[:, :, 0] == number][0, 1] - 1 for number in numbers], np.int64),
            crops=crops if self.contract.masks != "none" else (),
            contract=self.contract,
            placement=self.contract.place(TILE, TILE),
            exceeded=len(numbers) == self.top,
            settled=not frame[:, :, 2].any(),
            semantic=np.eye(3, dtype=np.float32)[frame[:, :, 1]].transpose(2, 0, 1)
            if self.contract.semantic_name
            else None,
        )


def frame_of(things: Sequence[Painted], height: int = 70, width: int = 90) -> NDArray[np.uint8]:
    frame = np.zeros((height, width, 3), np.uint8)
    for number, (left, top, right, bottom, label) in enumerate(things, 1):
        frame[top:bottom, left:right] = (number, label + 1, 0)
    return frame


def found_in(frame: NDArray[np.uint8], contract: InstanceContract = EXACT, tiling: Tiling | None = None) -> Instances:
    oracle: Any = Oracle(contract)
    with InstanceSegmenter(oracle, contract, PALETTE) as segmenter:
        return segmenter.tiled(frame, tiling)


@pytest.mark.parametrize(
    "thing",
    [(2, 2, 9, 9), (20, 4, 60, 14), (25, 3, 31, 9), (4, 5, 12, 66), (10, 10, 85, 65), (24, 24, 33, 33), (0, 0, 90, 70)],
    ids=["in one", "over a seam", "where two tiles share", "over two seams", "in all", "in four", "the whole frame"],
)
@pytest.mark.parametrize("contract", [EXACT, BOXES_ALONE], ids=["masks", "boxes alone"])
def test_a_thing_is_told_once_and_whole(thing: tuple[int, int, int, int], contract: InstanceContract) -> None:
    frame = frame_of([(*thing, 1)])
    found = found_in(frame, contract)

    assert found.boxes.tolist() == [[*thing]]
    assert found.names == ["box"]
    assert found.scores.tolist() == pytest.approx([0.99])
    if contract.masks != "none":
        assert (found.mask(0) == (frame[:, :, 0] == 1)).all()
        assert (found.class_map() == frame[:, :, 1]).all()


@pytest.mark.parametrize(
    "things",
    [
        [(10, 4, 28, 14, 0), (28, 4, 50, 14, 0)],
        [(10, 4, 50, 14, 0), (10, 14, 50, 20, 0)],
        [(20, 4, 26, 14, 0), (26, 4, 31, 14, 0)],
        [(10, 4, 50, 14, 0), (22, 6, 34, 12, 1)],
    ],
    ids=["side by side at a seam", "both over a seam", "both where two tiles share", "one before another"],
)
@pytest.mark.parametrize("contract", [EXACT, BOXES_ALONE], ids=["masks", "boxes alone"])
def test_two_things_that_touch_stay_two(things: list[Painted], contract: InstanceContract) -> None:
    found = found_in(frame_of(things), contract)

    assert found.boxes.tolist() == [[*thing[:4]] for thing in things]
    assert found.labels.tolist() == [thing[4] for thing in things]


sides = st.integers(1, 45)


@given(
    places=st.lists(st.tuples(st.integers(0, 88), st.integers(0, 68), sides, sides, st.integers(0, 1)), max_size=8),
    overlap=st.sampled_from([0.2, 0.25, 0.5, 0.7]),
)
@settings(max_examples=40, deadline=None)
def test_tiles_find_what_is_there(places: list[Painted], overlap: float) -> None:
    taken, things = np.zeros((70, 90), np.bool_), []
    for left, top, width, height, label in places:
        place = np.s_[top : top + height, left : left + width]
        if not taken[place].any():
            taken[place] = True
            things.append((left, top, min(left + width, 90), min(top + height, 70), label))
    frame = frame_of(things)
    found = found_in(frame, tiling=Tiling(overlap=overlap))

    assert found.boxes.tolist() == [[*thing[:4]] for thing in things]
    for number in range(len(things)):
        assert (found.mask(number) == (frame[:, :, 0] == number + 1)).all()
    assert (found.panoptic() // 1000 == frame[:, :, 1]).all()


def test_a_frame_smaller_than_a_tile_shows_nothing_beyond_its_edges() -> None:
    frame = frame_of([(15, 12, 20, 18, 0)], 18, 20)
    found = found_in(frame)

    assert found.boxes.tolist() == [[15, 12, 20, 18]]
    assert found.size == (18, 20)
    assert (found.mask(0) == (frame[:, :, 0] == 1)).all()
    assert found.rle()[0]["size"] == [18, 20]


def test_tiles_that_do_not_overlap_show_parts_that_nothing_joins() -> None:
    found = found_in(frame_of([(20, 4, 60, 14, 0)]), tiling=Tiling(overlap=0))

    assert len(found) == 2


def test_one_tile_with_more_things_than_rows_says_that_there_may_be_more() -> None:
    oracle: Any = Oracle(EXACT, top=1)
    with InstanceSegmenter(oracle, EXACT, PALETTE) as segmenter:
        done: list[tuple[int, int]] = []
        found = segmenter.tiled(frame_of([(2, 2, 9, 9, 0)]), progress=lambda *counts: done.append(counts))

    assert found.exceeded
    assert done[-1] == (len(done), len(done))
    assert oracle.seen == len(done) + 1  # the first tile tells how large its maps are


def test_a_tile_in_which_the_network_ended_early_is_said_of_the_frame() -> None:
    frame = frame_of([(2, 2, 9, 9, 0)])
    told = coco_document(found_in(frame), "one")
    frame[60, 80, 2] = 1

    assert not found_in(frame).settled
    assert coco_document(found_in(frame), "one") == {**told, "settled": False}


# the merging itself


LEFT, RIGHT = (0, 0, 32, 32), (24, 0, 56, 32)


def part(mask: tuple[int, int, int, int], tile: Rect, score: float = 0.9, *, cut: bool = False) -> Part:
    left, top, right, bottom = mask
    crop = Crop(np.ones((bottom - top, right - left), np.bool_), left, top)
    return Part(np.array(mask, np.float32), score, 0, crop, tile, cut)


def boxes_of(parts: list[Part]) -> list[list[float]]:
    return [one.box.tolist() for one in parts]


def test_a_sliver_at_a_tiles_edge_that_lies_inside_a_thing_goes() -> None:
    """A network sees too little of it to draw it well."""
    thing, sliver = part((8, 4, 27, 20), LEFT), part((24, 14, 26, 20), RIGHT, 0.3, cut=True)

    assert boxes_of(merged([thing, sliver])) == [[8, 4, 27, 20]]


def test_a_small_thing_that_a_tile_shows_whole_stays_though_it_lies_inside_another() -> None:
    thing, small = part((8, 4, 31, 20), LEFT), part((26, 14, 29, 17), RIGHT, 0.3)

    assert boxes_of(merged([thing, small])) == [[8, 4, 31, 20], [26, 14, 29, 17]]


def test_a_tile_that_tells_two_things_apart_is_believed() -> None:
    both = part((10, 4, 30, 20), LEFT, cut=True)
    upper, lower = part((24, 4, 30, 16), RIGHT, 0.8, cut=True), part((24, 16, 30, 20), RIGHT, 0.7)

    assert len(merged([both, upper, lower])) == 2


def test_of_a_thing_that_a_tile_shows_whole_that_is_taken_with_the_highest_score() -> None:
    whole, piece = part((20, 4, 31, 20), LEFT, 0.6), part((24, 4, 30, 20), RIGHT, 0.8, cut=True)
    (found,) = merged([whole, piece])

    assert (found.score, found.box.tolist()) == (0.8, [20, 4, 31, 20])
    assert found.crop is whole.crop


def test_a_part_that_leads_out_of_what_looked_whole_is_joined_to_it() -> None:
    whole, rest = part((10, 4, 29, 20), LEFT), part((24, 4, 50, 20), RIGHT, cut=True)
    (found,) = merged([whole, rest])

    assert found.box.tolist() == [10, 4, 50, 20]
    assert found.area == 40 * 16
