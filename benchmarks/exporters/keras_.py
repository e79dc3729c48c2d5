"""Keras by tf2onnx: `pip install keras tensorflow-cpu tf2onnx`. Its own way is `model.predict` itself."""

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from benchmarks.exporters.leaving import SIZE, Given, Left, given, leave

_CLASSES = 11


def _network(frames: NDArray[np.float32]) -> Any:
    """Down twice, up twice, pixels scaled inside; the head's scores are spread evenly."""
    image = keras.Input((*SIZE, 3))
    found = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for channels in (16, 32):
        found = layers.SeparableConv2D(channels, 5, 2, "same", activation="relu")(found)
    found = layers.UpSampling2D(4, interpolation="bilinear")(found)
    head = layers.Conv2D(_CLASSES, 3, padding="same", kernel_initializer="he_normal")
    scores = head(layers.Concatenate()([found, layers.Rescaling(1 / 127.5, offset=-1)(image)]))
    plain = keras.Model(image, scores).predict(frames, verbose=0)
    mean, deviation = plain.mean((0, 1, 2)), plain.std((0, 1, 2))
    weights, bias = head.get_weights()
    head.set_weights([weights / deviation, (bias - mean) / deviation])
    whole = keras.Model(image, layers.Softmax()(scores))
    whole(frames[:1])  # the export wants a model that was called
    return whole


def main() -> None:
    """Export by Keras, answer by Keras."""
    it: Given = given()
    keras.utils.set_random_seed(0)
    network = _network(it.fitting()[:4].astype(np.float32))
    network.export(it.out / "model.onnx", format="onnx", verbose=False)

    def answer(frame: NDArray[np.uint8]) -> NDArray[Any]:
        found: NDArray[Any] = network.predict(frame[None].astype(np.float32), verbose=0)[0].argmax(-1)
        return found

    leave(it, Left(answer, None, ("keras", "tensorflow-cpu", "tf2onnx")))


if __name__ == "__main__":
    main()
