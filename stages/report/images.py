"""A stage's PNGs as data URIs small enough for one page."""

import base64

import cv2
import numpy as np

from segpipe.rundir.directory import RunDirectory

_WIDEST = 1400  # pixels; a page is about 1100 wide, and a phone zooms
_QUALITY = 85
_SMALL_BYTES = 200_000  # a PNG up to here stays as it is


def picture(rundir: RunDirectory, stage: str, name: str) -> str:
    """The picture, narrowed where it is wide; empty where the stage did not leave it."""
    record = rundir.manifest.stages.get(stage)
    if record is None or name not in record.outputs:
        return ""
    data = rundir.artifact_bytes(stage, name)
    if len(data) <= _SMALL_BYTES:
        return _uri("png", data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return ""
    height, width = pixels.shape[:2]
    if width > _WIDEST:
        pixels = cv2.resize(pixels, (_WIDEST, height * _WIDEST // width), interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return _uri("jpeg", encoded.tobytes())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
