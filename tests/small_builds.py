"""Engines of small graphs, as they are asked for."""

import importlib.util
from typing import Any

import onnx
import pytest

from segpipe.runtime.trt.building import (
    BuildRequest,
    ShapeRange,
)
from stages.build.engines import make_request
from stages.config.root import BuildConfig
from stages.graphs.reading import to_bytes

SHAPES = (ShapeRange((1, 3, 16, 24), (1, 3, 16, 24), (4, 3, 16, 24)),)
CONFIG = BuildConfig(compute_capabilities=("8.6",))
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="pip install 'segpipe[rtx]'")


def request(model: onnx.ModelProto, **changes: Any) -> BuildRequest:
    config = CONFIG.model_copy(update=changes)
    return make_request("tensorrt-rtx", to_bytes(model), "image", changes.pop("shapes", SHAPES), config)
