"""Which GPU backends build, deserialise and run here, and whether they answer what ONNX Runtime on the CPU answers."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from benchmarks.gpu.plan import Folders
from benchmarks.gpu.runs import FLAVOURS, ORT, SAME
from segpipe.errors import SegpipeError
from segpipe.runtime import trt
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from segpipe.testing import CONTRACT, make_frame, make_onnx
from stages.measuring.rounds import FAILURES, first_line

_SHAPES = ShapeRange((1, 3, 64, 64), (1, 3, 512, 1024), (4, 3, 1024, 2048))
_REFUSALS = (SegpipeError, AttributeError, TypeError, *FAILURES)  # a version we do not know may lack what we call
_FOREIGN = (("8.0",), ("8.9",), ("12.0",))  # does an RTX engine for another compute capability run on this one?


def run(folders: Folders) -> Iterator[dict[str, Any]]:
    """A small network through every backend; one that refuses says so and does not stop the others."""
    found: dict[str, Any] = {ORT: {}}
    _open(ORT, make_onnx(CONTRACT), found[ORT])
    yield found
    for flavour in FLAVOURS:
        found[flavour] = _built(flavour)
        yield found
    if trt.is_installed("tensorrt-rtx"):
        for capabilities in _FOREIGN:
            found[f"tensorrt-rtx for {capabilities[0]}"] = _built("tensorrt-rtx", capabilities)
            yield found
    assert any(entry.get("agreement", 0.0) >= SAME for entry in found.values()), "no GPU backend runs here"


def _built(flavour: trt.Flavour, capabilities: Sequence[str] = ()) -> dict[str, Any]:
    """How far the flavour gets, with the words of what stopped it. Without capabilities it builds for this GPU."""
    if not trt.is_installed(flavour):
        return {"reached": "nothing", "why": "not installed"}
    reached: dict[str, Any] = {"reached": "import"}
    with noting(reached):
        reached["version"] = trt.version(flavour)
        started = time.monotonic()
        engine = build_engine(flavour, BuildRequest(make_onnx(CONTRACT), CONTRACT.input_name, (_SHAPES,), capabilities))
        reached |= {"reached": "build", "build_s": round(time.monotonic() - started, 2)}
        _open(flavour, engine.plan, reached)
    return reached


def _open(backend: str, artifact: bytes, reached: dict[str, Any]) -> None:
    """Open and run one frame four times: uncaptured, captured, replayed twice."""
    frame, _ = make_frame(512, 1024)
    with noting(reached):
        started = time.monotonic()
        opened = load_opener(backend)(artifact, CONTRACT, OpenOptions())
        reached |= {"reached": "open", "open_s": round(time.monotonic() - started, 2)}
        masks = [opened.infer([frame], Outputs())[0].mask for _ in range(4)]
        reached |= {"reached": "run", **opened.describe()}
        opened.close()
        reference = load_opener("onnxruntime-cpu")(make_onnx(CONTRACT), CONTRACT, OpenOptions())
        wanted = reference.infer([frame], Outputs())[0].mask
        reached["agreement"] = min(float((mask == wanted).mean()) for mask in masks)


@contextmanager
def noting(reached: dict[str, Any]) -> Iterator[None]:
    """What stops one backend is told in its words and does not stop the others."""
    try:
        yield
    except _REFUSALS as error:
        reached["why"] = f"{type(error).__name__}: {first_line(error)}"
