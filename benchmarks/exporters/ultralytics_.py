"""Ultralytics' semantic networks: `pip install ultralytics onnx onnxruntime`. Its command line exports; none of its
code is used here, the way from frame to labels is written from its documentation.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.exporters.leaving import SIZE, Left, given, leave

_GREY = 114
_EXPORT = ("yolo", "export", "model=yolo26n-sem.yaml", "task=semantic", "format=onnx", f"imgsz={SIZE[0]},{SIZE[1]}")


def main() -> None:
    """Export, then answer: scaled to fit, padded with grey on both sides, pixels / 255."""
    it = given()
    subprocess.run(_EXPORT, check=True, cwd=it.out)
    path = it.out / "model.onnx"
    shutil.move(next(it.out.glob("*-sem.onnx")), path)
    _spread(path, np.concatenate([_planes(frame) for frame in it.fitting()[:4]]))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def labels(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        found: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: _planes(pixels)})[0].reshape(SIZE)
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


def _planes(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    planes: Any = pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    found: NDArray[np.float32] = planes
    return found


def _spread(path: Path, images: NDArray[np.float32]) -> None:
    """The weights of the file's last convolution: each class gets mean 0 and deviation 1 over `images`."""
    model = onnx.load(path)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    shown = onnx.ModelProto.FromString(model.SerializeToString())
    shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    scores = np.concatenate([session.run([last.output[0]], {name: image[None]})[0] for image in images])
    mean, deviation = scores.mean((0, 2, 3)), scores.std((0, 2, 3))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    weight, bias = (held[one] for one in last.input[1:3])
    changed = numpy_helper.to_array(weight) / deviation[:, None, None, None]
    moved = (numpy_helper.to_array(bias) - mean) / deviation
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    bias.CopyFrom(numpy_helper.from_array(moved, bias.name))
    onnx.save(model, path)


if __name__ == "__main__":
    main()
