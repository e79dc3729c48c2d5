"""Frames of any size: overlapping tiles, their scores blended, memory bounded by one row of tiles.

Frames are read and masks given by rows, from top to bottom, so that neither has to be in memory. The grid of tiles is
regular, so the Gaussian weights of all tiles over a score are normalised beforehand, one axis at a time: what is added
up is the blend itself.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import InputError
from segpipe.runtime.backends import Backend
from segpipe.runtime.geometry import axis_at
from segpipe.runtime.postprocess import mask_of
from segpipe.runtime.request import Outputs
from segpipe.runtime.streaming import ordered

Progress = Callable[[int, int], None]
"""Called with the number of tiles that are done, and of all tiles."""
Write = Callable[[int, NDArray[Any]], None]
"""Called with the number of a row, and that row and those after it."""

_SCORES = Outputs(scores=True, at_network_size=True)
_FREE_SIDE = 1024  # tile of a network that follows the frame's size
_WIDTH = 0.25  # standard deviation of the Gaussian, in tiles
_MAX_OVERLAP = 0.9
_WORKERS = 2  # batches of tiles in work: one is prepared while the network has the other


@dataclass(frozen=True)
class Tiling:
    """How a huge frame is cut."""

    tile: tuple[int, int] | None = None
    """Height and width in frame pixels; by default what the network sees, so that nothing is resized."""
    overlap: float = 0.25
    """Share of a tile that the next one covers too."""
    batch: int = 4
    """Tiles that the backend gets at a time."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= _MAX_OVERLAP or self.batch < 1 or (self.tile and min(self.tile) < 1):
            raise InputError(
                f"tile {self.tile}, overlap {self.overlap}, batch {self.batch} is not a tiling",
                hint=f"overlap is 0 to {_MAX_OVERLAP}, batch and sides are at least 1",
            )


class Rows(Protocol):
    """A frame that is read by its rows."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        ...

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """Some rows, HxWxC as the contract has them. No call begins above the one before."""
        ...


@dataclass(frozen=True)
class WholeFrame:
    """One that is in memory."""

    pixels: NDArray[Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def read(self, top: int, bottom: int) -> NDArray[Any]:
        """A view."""
        return self.pixels[top:bottom]


@dataclass(frozen=True)
class Cut:
    """The tiles along one axis: where each begins, in scores, and the weights of its scores."""

    begins: NDArray[np.intp]
    weights: NDArray[np.float32]
    px: float
    """Frame pixels to a score."""

    @property
    def tile(self) -> int:
        """Scores along a tile."""
        return self.weights.shape[1]

    @property
    def length(self) -> int:
        """Scores along the whole axis."""
        return int(self.begins[-1]) + self.tile

    @property
    def firsts(self) -> list[int]:
        """The first frame pixel of each tile."""
        return [round(int(begin) * self.px) for begin in self.begins]

    def first_beneath(self, number: int) -> int:
        """The first tile whose scores reach to those of tile `number`, or to the score before them."""
        return int(np.searchsorted(self.begins, self.begins[number] - self.tile))

    def positions(self, begin: int, end: int, origin: int) -> NDArray[np.floating[Any]]:
        """Where pixels `begin` to `end` lie in the scores that start at `origin`."""
        return (np.arange(begin, end) + 0.5) / self.px - origin


@dataclass(frozen=True)
class Tiles:
    """What is cut and who segments it."""

    backend: Backend
    frame: Rows
    tile: tuple[int, int]
    rows: Cut
    columns: Cut
    batch: int

    @classmethod
    def over(
        cls, backend: Backend, frame: Rows, tile: tuple[int, int], grid: tuple[int, int], tiling: Tiling
    ) -> "Tiles":
        """Cut a frame into tiles whose maps are as large as `grid`."""
        rows, columns = (cut_axis(frame.size[axis], tile[axis], grid[axis], tiling.overlap) for axis in (0, 1))
        return cls(backend, frame, tile, rows, columns, tiling.batch)

    @property
    def count(self) -> int:
        """Of all tiles."""
        return len(self.rows.begins) * len(self.columns.begins)

    def answers(self, asked: Outputs, rows: slice = slice(None)) -> Iterator[Any]:
        """What the network says of each tile, row by row from left to right."""
        batches = self._batches(self.rows.firsts[rows])
        for some in ordered(lambda crops: _infer(self.backend, crops, self.tile, asked), batches, _WORKERS):
            yield from some

    def _batches(self, tops: Iterable[int]) -> Iterator[list[NDArray[Any]]]:
        """Crops of one row at a time, as many as the backend gets."""
        height, width = self.tile
        lefts = self.columns.firsts
        for top in tops:
            band = self.frame.read(top, min(top + height, self.frame.size[0]))
            for first in range(0, len(lefts), self.batch):
                some = lefts[first : first + self.batch]
                yield [band[:, x : x + width] for x in some]


class Canvas:
    """The band of scores that tiles are being added to: a row before them and theirs. What is settled is written.

    Rows of tiles before `first` are added for what they have in common with it, and not written.
    """

    def __init__(self, tiles: Tiles, contract: Contract, write: Write, first: int = 0) -> None:
        self._size, self._give, self._first = tiles.frame.size, write, first
        self._rows, self._columns, self._contract = tiles.rows, tiles.columns, contract
        self._band = np.zeros((contract.score_channels, tiles.rows.tile + 1, tiles.columns.length), np.float32)
        self._written = self._pixels_above(int(self._rows.begins[first])) if first else 0

    def add(self, number: int, scores: NDArray[np.float32]) -> None:
        """Blend in the scores of tile `number`; after a row's last one all that no further tile touches is written."""
        row, column = divmod(number, len(self._columns.begins))
        left = self._columns.begins[column]
        weights = self._rows.weights[row][:, None] * self._columns.weights[column]
        self._band[:, 1:, left : left + self._columns.tile] += scores * weights
        if column + 1 == len(self._columns.begins):
            self._finish_row(row)

    def _finish_row(self, row: int) -> None:
        """Write the pixel rows between scores that no further tile touches, and move the band down."""
        if row == 0:
            self._band[:, 0] = self._band[:, 1]
        top, last = int(self._rows.begins[row]), row + 1 == len(self._rows.begins)
        settled = self._rows.length if last else int(self._rows.begins[row + 1])
        if row >= self._first:
            self._write(np.ascontiguousarray(self._band[:, : settled - top + 1]), top - 1, last)
        kept = self._band.shape[1] - (settled - top)
        self._band[:, :kept] = self._band[:, -kept:].copy()
        self._band[:, kept:] = 0

    def _write(self, scores: NDArray[np.float32], origin: int, last: bool) -> None:
        height, width = self._size
        begin, end = self._written, height if last else self._pixels_above(origin + scores.shape[1])
        if end > begin:
            down = axis_at(self._rows.positions(begin, end, origin), scores.shape[1])
            across = axis_at(self._columns.positions(0, width, 0), scores.shape[2])
            self._give(begin, mask_of(scores, down, across, self._contract))
            self._written = end

    def _pixels_above(self, score: int) -> int:
        """Rows of pixels down to the centre of the last one before a row of scores."""
        centre = (score - 0.5) * self._rows.px
        return min(math.ceil(centre - 0.5), self._size[0])


def segment_tiled(
    backend: Backend, contract: Contract, frame: NDArray[Any], tiling: Tiling, progress: Progress | None
) -> NDArray[Any]:
    """The mask of a checked frame. Beside frame and mask, memory holds the scores of one row of tiles."""
    mask = np.empty(frame.shape[:2], contract.mask_dtype)

    def write(top: int, rows: NDArray[Any]) -> None:
        mask[top : top + len(rows)] = rows

    segment_rows(backend, contract, WholeFrame(frame), write, tiling=tiling, progress=progress)
    return mask


def segment_rows(
    backend: Backend, contract: Contract, frame: Rows, write: Write, *, tiling: Tiling, progress: Progress | None,
    wanted: range | None = None,
) -> None:  # fmt: skip
    """The same mask by its rows, each once, from top to bottom; called and calling in one thread.

    With `wanted`, what those rows of tiles settle: all of them in turn give the mask, to the last bit.
    """
    tiles = _blended(backend, contract, frame, tiling)
    across, down = len(tiles.columns.begins), len(tiles.rows.begins)
    wanted = range(down) if wanted is None else wanted
    if not 0 <= wanted.start < wanted.stop <= down or wanted.step != 1:
        raise InputError(f"{wanted} are no rows of tiles of this frame", hint=f"it has {down}")
    canvas, first = Canvas(tiles, contract, write, wanted.start), tiles.rows.first_beneath(wanted.start)
    for number, answer in enumerate(tiles.answers(_SCORES, slice(first, wanted.stop))):
        canvas.add(first * across + number, answer.scores)
        if progress is not None:
            progress(number + 1, (wanted.stop - first) * across)


def count_rows(backend: Backend, contract: Contract, frame: Rows, tiling: Tiling) -> int:
    """Rows of tiles that a frame is cut into."""
    return len(_blended(backend, contract, frame, tiling).rows.begins)


def _blended(backend: Backend, contract: Contract, frame: Rows, tiling: Tiling) -> Tiles:
    """Tiles whose scores are blended."""
    tile = tile_size(contract, tiling)
    return Tiles.over(backend, frame, tile, first_answer(backend, frame, tile, _SCORES).scores.shape[1:], tiling)


def tile_size(contract: Contract, tiling: Tiling) -> tuple[int, int]:
    """Height and width of a tile, in frame pixels."""
    if contract.output_kind == "labels":
        raise InputError("this network gives labels, which cannot be blended", hint="segment the frame whole")
    tile = tiling.tile or contract.network_size or contract.place(_FREE_SIDE, _FREE_SIDE).canvas
    placement = contract.place(*tile)
    if placement.resized != placement.canvas:
        raise InputError(
            f"a tile of {tile[0]}x{tile[1]} does not fill the network's {placement.canvas[0]}x{placement.canvas[1]}",
            hint="give tiles the network's aspect ratio, or sides that are multiples of size_multiple",
        )
    return tile


def cut_axis(pixels: int, tile_px: int, tile: int, overlap: float) -> Cut:
    """Tiles of `tile` scores, `tile_px` pixels, over an axis, with the Gaussian weights of each, normalised."""
    last = max(-(-pixels * tile // tile_px) - tile, 0)
    step = max(round(tile * (1 - overlap)), 1)
    begins = np.unique(np.minimum(np.arange(0, last + step, step), last))
    gaussian = np.exp(-0.5 * ((np.arange(tile) + 0.5 - tile / 2) / (tile * _WIDTH)) ** 2)
    total = np.zeros(last + tile)
    for begin in begins:
        total[begin : begin + tile] += gaussian
    weights = np.stack([gaussian / total[begin : begin + tile] for begin in begins])
    return Cut(begins, weights.astype(np.float32), tile_px / tile)


def first_answer(backend: Backend, frame: Rows, tile: tuple[int, int], asked: Outputs) -> Any:
    """What the network says of the upper left tile: it tells how large its maps are."""
    corner = frame.read(0, min(tile[0], frame.size[0]))[:, : tile[1]]
    return _infer(backend, [corner], tile, asked)[0]


def _infer(backend: Backend, crops: list[NDArray[Any]], tile: tuple[int, int], asked: Outputs) -> list[Any]:
    """Crops at the frame's edge are filled up with their last pixels."""
    whole = []
    for crop in crops:
        missing = [(0, tile[axis] - crop.shape[axis]) for axis in (0, 1)]
        whole.append(np.pad(crop, (*missing, (0, 0)), mode="edge") if missing != [(0, 0), (0, 0)] else crop)
    return backend.infer(whole, asked)
