"""Ultralytics' semantic networks: `pip install ultralytics onnx onnxruntime`. Its command line exports; none of its
code is used here, the way from frame to labels is written from its documentation.
"""

import shutil
import subprocess
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.exporters.leaving import SIZE, Left, given, leave

_GREY = 114
_EXPORT = ("yolo", "export", "model=yolo26n-sem.yaml", "task=semantic", "format=onnx", f"imgsz={SIZE[0]},{SIZE[1]}")


def main() -> None:
    """Export, then answer: scaled to fit, padded with grey on both sides, pixels / 255."""
    it = given()
    subprocess.run(_EXPORT, check=True, cwd=it.out)
    path = it.out / "model.onnx"
    shutil.move(next(it.out.glob("*-sem.onnx")), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def labels(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        planes = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
        found: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: planes})[0].reshape(SIZE)
        return found

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        scale = min(to / of for of, to in zip(frame.shape[:2], SIZE, strict=True))
        height, width = (round(side * scale) for side in frame.shape[:2])
        small = frame if scale == 1 else cv2.resize(frame, (width, height))
        top, left = round((SIZE[0] - height) / 2 - 0.1), round((SIZE[1] - width) / 2 - 0.1)
        padded = np.full((*SIZE, 3), _GREY, np.uint8)
        padded[top : top + height, left : left + width] = small
        return labels(padded)[top : top + height, left : left + width]

    leave(it, Left(answer, None, ("ultralytics", "torch", "onnxruntime")))


if __name__ == "__main__":
    main()
