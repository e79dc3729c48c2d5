"""What was measured, for the eye: some of the frames with the masks that our best backend gave them."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segpipe import draw
from segpipe.media.images import encode_png
from segpipe.palette import read_palette
from segpipe.result import Result
from segpipe.rundir.directory import RunDirectory
from stages.benchmark.contestants import Scene

_SHOWN, _WIDTH = 3, 360  # frames, and pixels across each


def frame_sheet(rundir: RunDirectory, scene: Scene, segment: Callable[[NDArray[Any]], NDArray[Any]] | None) -> bytes:
    """A PNG: frame and overlay side by side, three frames, with the legend."""
    palette = read_palette(rundir, "export", scene.contract)
    rows = []
    for frame in scene.frames[:_SHOWN]:
        shown = draw.displayable(frame, scene.contract.value_range)
        laid = Result(segment(frame), scene.contract, palette).overlay(frame) if segment else shown
        rows.append([_narrow(shown), _narrow(laid)])
    first = rows[0][0].shape
    same = [row for row in rows if row[0].shape == first]
    legend = draw.legend(scene.contract.classes, palette, 2 * first[1])
    sheet = draw.contact_sheet(same, ["frame", "what was measured"], legend)
    return encode_png("frames.png", sheet)


def _narrow(picture: draw.Image) -> draw.Image:
    height, width = picture.shape[:2]
    if width <= _WIDTH:
        return picture
    return cv2.resize(picture, (_WIDTH, max(1, height * _WIDTH // width)), interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )
