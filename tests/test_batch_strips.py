"""One large image in strips: the mask is the one of a single process, whoever ends meanwhile and in whatever order."""

import os
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segpipe import testing
from segpipe.artifacts import AUTO
from segpipe.errors import InputError
from segpipe.predicting.done import Origin, Source
from segpipe.predicting.job import Advance, Job
from segpipe.runtime.segmenter import Segmenter
from segpipe.runtime.tiling import Tiling, WholeFrame
from tests.using import names_below

pytest.importorskip("pyarrow")
pytest.importorskip("rasterio")

from segpipe.batch.actor import Opening, packed
from segpipe.batch.cluster import Size
from segpipe.batch.crew import ManyHands
from segpipe.batch.driver import Here, Request, predict_batch
from segpipe.batch.hands import EndedError, Hands, LocalHand, LocalHands
from segpipe.batch.index import Files
from segpipe.batch.items import Item
from segpipe.batch.spread import candidates, pays
from segpipe.batch.status import State
from segpipe.batch.stores import LocalStore
from segpipe.batch.strips import Plan
from segpipe.batch.version import Version
from tests.batch_nodes import DEVICE, Nodes, Watch
from tests.test_rasters import BOTH, TILE, cut_off, frame, read_mask, write_tiff

ROWS = 6
"""Of tiles, in the images here."""
JOB = Job(Path(), overlay=False, geotiff=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network with small tiles."""
    small = testing.CONTRACT.model_copy(update={"fit": "stretch", "network_size": TILE})
    return testing.make_run(tmp_path_factory.mktemp("tiles") / "run", small)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """With holes, at a place."""
    pixels = frame().clip(1, 255)
    pixels[140:190, 100:250] = 0
    return write_tiff(tmp_path / "in/a.tif", pixels, nodata=0, **BOTH)


def ticked(frames: int, /, *, skipped: bool = False) -> None:
    """Nobody watches."""


def unseen(total: int) -> nullcontext[Advance]:
    return nullcontext(ticked)


def alone(segmenter: Segmenter, source: Path, out: Path) -> State:
    version = Version.of(segmenter, JOB, ("mask",))
    return predict_batch(Here(segmenter, JOB, ("mask",)), Request(str(source), str(out), JOB, version), unseen)


def together(run: Path, source: Path, out: Path, hands: Hands, actors: int = 2) -> State:
    opening = Opening(JOB, ("mask",), AUTO, None, False, threads=1)
    with closing(ManyHands(hands, packed(run), opening, Size(actors))) as crew:
        return predict_batch(crew, Request(str(source), str(out), JOB, crew.version()), unseen)


def rows(state: State, *columns: str) -> dict[str, tuple[Any, ...]]:
    return Files.of(LocalStore(Path(state.folder))).latest(columns)


def mask(state: State, name: str = "a.tif") -> bytes:
    return Path(state.folder, "masks", name).read_bytes()


class Backwards(Nodes):
    """What is asked last is answered first."""

    def ready(self, calls: Sequence[Any], timeout_s: float) -> Sequence[Any]:
        return [*super().ready(calls, timeout_s)][-1:]


SAME = ("size", "mtime_ns", "sha256", "artifact_sha256", "device", "shares", "height", "width", "mask_bytes", "error")


NARROW = frame()[:, :150]


@pytest.mark.parametrize(("overlap", "each"), [(0.0, 1), (0.0, 3), (0.25, 1), (0.25, 2), (0.7, 4)])
def test_rows_of_tiles_by_themselves_give_the_mask_to_the_last_pixel(
    segmenter: Segmenter, overlap: float, each: int
) -> None:
    tiling, whole = Tiling(overlap=overlap), WholeFrame(NARROW)
    count = segmenter.tile_rows(whole, tiling)
    found: list[tuple[int, Any]] = []

    for begin in reversed(range(0, count, each)):
        part: list[tuple[int, Any]] = []
        wanted = range(begin, min(begin + each, count))
        segmenter.tiled_rows(whole, lambda *rows, part=part: part.append(rows), tiling, wanted=wanted)
        found = part + found

    assert [top for top, _ in found] == [0, *np.cumsum([len(rows) for _, rows in found])[:-1]]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), segmenter.tiled(NARROW, tiling))


@pytest.mark.parametrize("wanted", [range(0), range(3, 7), range(-1, 2), range(0, 4, 2)])
def test_rows_of_tiles_that_there_are_not_are_refused(segmenter: Segmenter, wanted: range) -> None:
    with pytest.raises(InputError, match="are no rows of tiles"):
        segmenter.tiled_rows(WholeFrame(frame()), lambda top, rows: None, wanted=wanted)


def test_strips_of_several_processes_make_the_file_of_one(
    segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    nodes = Backwards("first", "second")

    state = together(run, image.parent, tmp_path / "out", nodes)

    one = alone(segmenter, image.parent, tmp_path / "one")
    assert nodes.asked["first", "strip"] == nodes.asked["second", "strip"] == 1
    assert (state.done, state.broken) == (1, 0)
    assert mask(state) == mask(one)
    assert rows(state, *SAME) == rows(one, *SAME)
    assert rows(state, "ms")["a.tif"][0] > 0


def ends(begin: int, times: int) -> Watch:
    """Processes that are asked for the strip from this row of tiles on end, so often."""
    left = [times]

    def watch(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "strip" and arguments[3].start == begin and left[0]:
            left[0] -= 1
            raise EndedError("a process ended")

    return watch


@pytest.mark.parametrize(("begin", "times"), [(0, 1), (0, 2), (3, 1)])
def test_strips_of_a_process_that_ended_are_made_by_another(
    begin: int, times: int, *, segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    state = together(run, image.parent, tmp_path / "out", Nodes("first", "second", watch=ends(begin, times)))

    assert (state.done, state.broken) == (1, 0)
    assert mask(state) == mask(alone(segmenter, image.parent, tmp_path / "one"))


def test_an_image_whose_strip_ends_every_process_is_broken_and_leaves_nothing(
    run: Path, image: Path, tmp_path: Path
) -> None:
    state = together(run, image.parent, tmp_path / "out", Nodes("first", "second", watch=ends(3, 99)))

    assert (state.done, state.broken) == (0, 1)
    assert rows(state, "error", "tries")["a.tif"][0].startswith("a.tif ended 3 processes")
    assert names_below(Path(state.folder, "masks")) == []


@pytest.mark.parametrize("keeps_its_time", [False, True])
def test_an_image_that_changes_after_it_was_planned_has_the_mask_of_what_it_is_then(
    keeps_its_time: bool, *, segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    before, changed = image.stat(), list[bool]()

    def watch(method: str, arguments: tuple[Any, ...]) -> None:
        if method == "strip" and not changed:
            changed.append(True)
            image.unlink()
            write_tiff(image, frame(7).clip(1, 255), nodata=0, **BOTH)
            if keeps_its_time:
                os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))

    state = together(run, image.parent, tmp_path / "out", Nodes("first", "second", watch=watch))

    assert (state.done, state.broken) == (1, 0)
    np.testing.assert_array_equal(read_mask(Path(state.folder, "masks/a.tif")), segmenter.tiled(frame(7).clip(1, 255)))


def test_strips_of_one_mask_are_of_one_device_and_of_another_when_that_is_gone(
    segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    nodes = Nodes("good", DEVICE, spare=DEVICE)
    gone = Nodes("good", DEVICE, spare=DEVICE, watch=ends(0, 1))

    state = together(run, image.parent, tmp_path / "out", nodes)
    later = together(run, image.parent, tmp_path / "later", gone)

    assert nodes.asked["good", "strip"] + nodes.asked[DEVICE, "strip"] == 2
    assert 0 in (nodes.asked["good", "strip"], nodes.asked[DEVICE, "strip"])
    wanted = mask(alone(segmenter, image.parent, tmp_path / "one"))
    assert mask(state) == mask(later) == wanted
    assert gone.asked[DEVICE, "work"] + gone.asked["good", "work"] == 1


def test_a_broken_image_is_one_row_with_its_reason_and_the_rest_is_done(
    segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    cut_off(image.with_name("b.tif"))

    state = together(run, image.parent, tmp_path / "out", Nodes("first", "second", "third"), actors=3)

    assert (state.done, state.broken) == (1, 1)
    assert "is damaged" in rows(state, "error")["b.tif"][0]
    assert names_below(Path(state.folder, "masks")) == ["a.tif"]
    assert mask(state) == mask(alone(segmenter, image.parent, tmp_path / "one"))


def test_what_index_or_record_prove_is_not_made_again_in_strips(run: Path, image: Path, tmp_path: Path) -> None:
    first = together(run, image.parent, tmp_path / "out", Nodes("first", "second"))
    again = together(run, image.parent, tmp_path / "out", Nodes("first", "second"))
    Path(first.folder, "index").rename(Path(first.folder, "lost"))
    nodes = Nodes("first", "second")

    third = together(run, image.parent, tmp_path / "out", nodes)

    assert (first.done, again.skipped, third.done) == (1, 1, 1)
    assert nodes.asked["first", "strip"] + nodes.asked["second", "strip"] == 0
    assert rows(third, "ms")["a.tif"][0] is None


def test_a_mask_of_somebody_elses_is_not_replaced_by_strips(run: Path, image: Path, tmp_path: Path) -> None:
    first = together(run, image.parent, tmp_path / "out", Nodes("first", "second"))
    theirs = write_tiff(Path(first.folder, "masks/a.tif"), frame(2)).read_bytes()

    state = together(run, image.parent, tmp_path / "out", Nodes("first", "second"))

    assert (state.done, state.broken, mask(state)) == (0, 1, theirs)


class Falling(LocalHands):
    """The process that gets the second strip first ends before it can begin."""

    def __init__(self) -> None:
        self.ended = 0

    def start(self, place: str = "") -> LocalHand:
        return FallingHand(self)


class FallingHand(LocalHand):
    def __init__(self, hands: Falling) -> None:
        super().__init__()
        self._hands = hands

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "strip" and arguments[3].start and not self._hands.ended:
            self._hands.ended += 1
            self._process.kill()
            self._process.join()
        return super().call(method, *arguments)


def test_two_processes_of_which_one_is_killed_make_the_file_of_one(
    segmenter: Segmenter, run: Path, image: Path, tmp_path: Path
) -> None:
    hands = Falling()

    state = together(run, image.parent, tmp_path / "out", hands)

    assert hands.ended == 1
    assert mask(state) == mask(alone(segmenter, image.parent, tmp_path / "one"))


def plan(tile_rows: int) -> Plan:
    origin = Origin(Source("a.tif", 1, "0" * 64), "1" * 64, "2" * 64, "backend", "device", {})
    return Plan(origin, testing.CONTRACT, ((0, 0, 0),), tile_rows, 1, 1)


@pytest.mark.parametrize("processes", [2, 3, 64])
@pytest.mark.parametrize("tile_rows", [1, 2, 7, 26, 500])
def test_strips_are_all_rows_of_tiles_once(tile_rows: int, processes: int) -> None:
    strips = plan(tile_rows).strips(processes)

    assert [row for strip in strips for row in strip] == [*range(tile_rows)]
    assert max(map(len, strips)) <= 8


def test_images_are_spread_where_that_ends_sooner() -> None:
    assert pays([plan(26)], 2)
    assert pays([plan(26)] * 3, 4)
    assert not pays([plan(2)], 2)
    assert not pays([plan(26)] * 63, 64)
    assert not pays([], 4)


def test_images_that_keep_processes_waiting_are_the_rest_of_a_division_and_the_largest() -> None:
    small = Item("a.png", "a.png", 10**9, 0)
    large = [Item(f"{n}.tif", f"{n}.tif", 10 + n, 0, by_windows=True) for n in range(5)]
    huge = replace_size(large[0], 10**6)

    assert candidates([small, *large], 4) == [large[4]]
    assert candidates([*large, huge], 2) == [huge]
    assert candidates(large, 1) == candidates([small], 4) == []


def replace_size(item: Item, size: int) -> Item:
    return item._replace(name="huge.tif", size=size)
