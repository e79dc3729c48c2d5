"""What each layer costs in 8 bits: the signal to noise of the network's scores with that layer alone quantised."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from stages.graphs.int8_layers import Layer
from stages.graphs.running import opened
from stages.graphs.types import at_own_batch

ENOUGH_DB = 25.0
"""Quieter noise than this, a 300th of the scores' power, hardly moves a mask; louder layers stay in floats."""
_SILENCE_DB = 99.0


def ranked(
    model: onnx.ModelProto,
    layers: Iterable[Layer],
    alone: Callable[[str], onnx.ModelProto],
    frames: Sequence[NDArray[Any]],
) -> dict[str, float]:
    """Decibels of the worst frame, by node, in the order given. `alone` gives the graph with that layer in 8 bits."""
    expected = answers(model, frames)
    return {layer.name: noise_db(expected, answers(alone(layer.name), frames)) for layer in layers}


def answers(model: onnx.ModelProto, frames: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The first output, frame by frame."""
    run, name = opened(model), model.graph.input[0].name
    return [run({name: at_own_batch(model, frame)})[0] for frame in frames]


def noise_db(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """Power of the scores over power of the difference, of the worst pair, to a tenth; of labels pixels over flips."""
    return round(min(map(_decibels, expected, found)), 1)


def _decibels(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if expected.dtype.kind in "iu":
        signal, noise = float(expected.size), float((expected != found).sum())
    else:
        wide = expected.astype(np.float64)
        signal, noise = float((wide**2).sum()), float(((found - wide) ** 2).sum())
    if not np.isfinite(noise):
        return -_SILENCE_DB
    return _SILENCE_DB if not noise else min(_SILENCE_DB, 10 * float(np.log10(max(signal, 1e-30) / noise)))
