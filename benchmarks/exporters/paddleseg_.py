"""PaddleSeg's portrait network by paddle2onnx: `pip install paddlepaddle paddleseg==2.8.0 paddle2onnx onnxruntime`."""

from typing import Any

import cv2
import numpy as np
import onnxruntime
import paddle
import paddle2onnx
from numpy.typing import NDArray
from paddleseg.deploy.export import WrappedModel
from paddleseg.models import PPHumanSegLite
from paddleseg.transforms import Compose, Normalize

from benchmarks.exporters.leaving import SIZE, Left, given, leave

_CLASSES = 5


def main() -> None:
    """Export as its tools/export.py does, then answer by its transforms of BGR frames."""
    it = given()
    paddle.seed(0)
    network = PPHumanSegLite(num_classes=_CLASSES)
    transforms = Compose([Normalize()])

    def pixels(frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = transforms({"img": frame[:, :, ::-1].astype(np.float32)})["img"][None]
        return found

    _spread(network, paddle.to_tensor(np.concatenate([pixels(frame) for frame in it.fitting()[:4]])))
    shape = paddle.static.InputSpec([None, 3, *SIZE], "float32", "x")
    wrapped = paddle.jit.to_static(WrappedModel(network, "softmax"), input_spec=[shape])
    paddle.jit.save(wrapped, str(it.out / "paddle"))
    path = it.out / "model.onnx"
    paddle2onnx.export(str(it.out / "paddle.json"), str(it.out / "paddle.pdiparams"), str(path))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        found: NDArray[Any] = session.run(None, {"x": pixels(frame)})[0][0].argmax(0)
        return found

    def resized(frame: NDArray[np.uint8]) -> NDArray[Any]:
        small: Any = cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_LINEAR)
        shares = session.run(None, {"x": pixels(small)})[0]
        large = paddle.nn.functional.interpolate(paddle.to_tensor(shares), frame.shape[:2], mode="bilinear")
        found: NDArray[Any] = large.numpy()[0].argmax(0)
        return found

    leave(it, Left(answer, resized, ("paddleseg", "paddlepaddle", "paddle2onnx", "onnxruntime")))


def _spread(network: Any, images: Any) -> None:
    """Batch statistics of the images. Its head ends in a batch norm, so scores are spread too."""
    norms = [layer for layer in network.sublayers() if isinstance(layer, paddle.nn.BatchNorm2D)]
    for norm in norms:
        norm._momentum = 0.0  # of the old value
    network.train()
    network(images)
    network.eval()


if __name__ == "__main__":
    main()
