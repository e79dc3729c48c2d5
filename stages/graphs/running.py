"""A graph in memory, run by ONNX Runtime's CPU provider as production opens it."""

from collections.abc import Callable
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime import SessionOptions

from segpipe.runtime.backends.session import open_session
from stages.graphs.reading import to_bytes

Run = Callable[[dict[str, NDArray[Any]]], list[NDArray[Any]]]
"""Inputs by name to all outputs in their order."""
_ERRORS_ONLY = 3


def opened(model: onnx.ModelProto) -> Run:
    """The graph, ready to be called."""
    settings = SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    session = open_session(to_bytes(model), settings, "CPUExecutionProvider")

    def run(inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        outputs: list[NDArray[Any]] = session.run(None, inputs)
        return outputs

    return run
