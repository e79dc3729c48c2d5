"""Things of a frame of any size: found in overlapping tiles, moved into the frame, and each of them told once."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import InstanceContract
from segpipe.id_maps import Crop
from segpipe.instances import Instances, class_contract
from segpipe.runtime.backends import Backend
from segpipe.runtime.request import Outputs
from segpipe.runtime.tiling import Canvas, Progress, Tiles, Tiling, WholeFrame, first_answer, tile_size
from segpipe.tasks.merging import Part, Rect, merged

_PLAIN = Outputs()


def things_in_tiles(
    backend: Backend, contract: InstanceContract, frame: NDArray[Any], tiling: Tiling, progress: Progress | None
) -> Instances:
    """The things of a checked frame, by falling score. Memory holds all things of all tiles."""
    masks, whole = class_contract(contract), WholeFrame(frame)
    tile = tile_size(masks, tiling)
    semantic = first_answer(backend, whole, tile, _PLAIN).semantic
    tiles = Tiles.over(backend, whole, tile, tile if semantic is None else semantic.shape[1:], tiling)
    classes = None if semantic is None else np.empty(whole.size, np.uint8)
    canvas = None if classes is None else Canvas(tiles, masks, _into(classes))
    parts: list[Part] = []
    exceeded, settled = False, True
    for number, (found, rect) in enumerate(zip(tiles.answers(_PLAIN), _rects(tiles), strict=True), 1):
        if canvas is not None:
            canvas.add(number - 1, found.semantic)
        parts += _parts(found, rect, whole.size)
        exceeded, settled = exceeded or found.exceeded, settled and found.settled
        if progress is not None:
            progress(number, tiles.count)
    answer = _answer(merged(parts), contract, whole.size, classes)
    return replace(answer, exceeded=exceeded, settled=settled)


def _into(classes: NDArray[np.uint8]) -> Any:
    def write(top: int, rows: NDArray[Any]) -> None:
        classes[top : top + len(rows)] = rows

    return write


def _rects(tiles: Tiles) -> Iterator[Rect]:
    """What each tile shows of the frame."""
    (height, width), (tall, wide) = tiles.tile, tiles.frame.size
    for top in tiles.rows.firsts:
        for left in tiles.columns.firsts:
            yield left, top, min(left + width, wide), min(top + height, tall)


def _parts(found: Instances, rect: Rect, size: tuple[int, int]) -> Iterator[Part]:
    """What one tile shows. Where the frame is smaller than the tile, the rest of it shows nothing."""
    left, top, right, bottom = rect
    low, high = np.array([left, top], np.float32), np.array([right, bottom], np.float32)
    inner_low, inner_high = low > 0, high < np.array(size[::-1])
    near = found.contract.output_stride  # masks are no finer
    for number, box in enumerate(found.boxes + np.tile(low, 2)):
        crop = found.crops[number] if found.crops else None
        moved = None if crop is None else Crop(crop.mask, crop.left + left, crop.top + top).within(rect)
        kept = np.concatenate([box[:2].clip(low, high), box[2:].clip(low, high)])
        cut = bool(((kept[:2] < low + near) & inner_low).any() or ((kept[2:] > high - near) & inner_high).any())
        yield Part(kept, float(found.scores[number]), int(found.labels[number]), moved, rect, cut)


def _answer(
    things: list[Part], contract: InstanceContract, size: tuple[int, int], classes: NDArray[np.uint8] | None
) -> Instances:
    things.sort(key=lambda thing: -thing.score)
    return Instances(
        boxes=np.array([thing.box for thing in things], np.float32).reshape(-1, 4),
        scores=np.array([thing.score for thing in things], np.float32),
        labels=np.array([thing.label for thing in things], np.int64),
        crops=tuple(thing.crop for thing in things if thing.crop is not None),
        contract=contract,
        placement=contract.place(*size),
        classes=classes,
    )
