"""Which TensorRT flavours build, deserialise and run here, and whether they answer what ONNX Runtime answers."""

import time
from typing import Any

from benchmarks.gpu.plan import Folders
from segpipe.errors import SegpipeError
from segpipe.runtime import trt
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from segpipe.testing import CONTRACT, make_frame, make_onnx
from stages.build.progress import shown

_FLAVOURS: tuple[trt.Flavour, ...] = ("tensorrt", "tensorrt-rtx")
_SHAPES = ShapeRange((1, 3, 64, 64), (1, 3, 512, 1024), (4, 3, 1024, 2048))


def run(folders: Folders) -> dict[str, Any]:
    """A small network through every flavour; a flavour that refuses says so and does not stop the other."""
    found: dict[str, Any] = {flavour: _tried(flavour) for flavour in _FLAVOURS}
    assert any(entry.get("agreement") == 1.0 for entry in found.values()), f"no flavour runs here: {found}"
    return found


def _tried(flavour: trt.Flavour) -> dict[str, Any]:
    """How far the flavour gets, with the words of what stopped it."""
    if not trt.is_installed(flavour):
        return {"reached": "nothing", "why": "not installed"}
    reached: dict[str, Any] = {"version": trt.version(flavour), "reached": "import"}
    graph, (frame, _) = make_onnx(CONTRACT), make_frame(512, 1024)
    try:
        started = time.monotonic()
        with shown(flavour) as progress:
            engine = build_engine(flavour, BuildRequest(graph, CONTRACT.input_name, (_SHAPES,)), progress)
        reached |= {"reached": "build", "build_s": round(time.monotonic() - started, 2)}
        backend = load_opener(flavour)(engine.plan, CONTRACT, OpenOptions())
        reached |= {"reached": "deserialise", **backend.describe()}
        mask = backend.infer([frame], Outputs())[0].mask
        backend.close()
    except SegpipeError as error:
        return reached | {"why": str(error)}
    wanted = load_opener("onnxruntime-cpu")(graph, CONTRACT, OpenOptions()).infer([frame], Outputs())[0].mask
    return reached | {"reached": "run", "agreement": float((mask == wanted).mean())}
