"""What was measured, for the eye: some of the frames with the masks that our best backend gave them."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.instances import class_contract
from segpipe.palette import read_palette
from segpipe.result import Result
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.contestants import Scene
from stages.pages.sheets import Legend, Row, encode_sheet

_SHOWN, _WIDTH = 3, 360  # frames, and pixels across each


def frame_sheet(rundir: RunDirectory, scene: Scene, segment: Callable[[NDArray[Any]], NDArray[Any]] | None) -> bytes:
    """A PNG: frame and overlay side by side, three frames, with the legend."""
    palette, contract = read_palette(rundir, "export", scene.contract), class_contract(scene.contract)
    rows: list[Row] = []
    for frame in scene.frames[:_SHOWN]:
        shown = draw.displayable(frame, scene.contract.value_range)
        laid = Result(segment(frame), contract, palette).overlay(frame) if segment else shown
        rows.append(Row("", (_narrow(shown), _narrow(laid))))
    height, width = (max(row.pictures[0].shape[side] for row in rows) for side in (0, 1))
    return encode_sheet(
        rows, ("frame", "what was measured"), [Legend(scene.contract.classes, palette)], (height, width)
    )


def _narrow(picture: draw.Image) -> draw.Image:
    height, width = picture.shape[:2]
    if width <= _WIDTH:
        return picture
    return cv2.resize(picture, (_WIDTH, max(1, height * _WIDTH // width)), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )
