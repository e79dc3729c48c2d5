"""`python -m tests.triton .venv-triton`: masks of a real tritonserver against Segmenter's, over HTTP and gRPC.

Further: configs of all variants read by the server's protobuf, requests that meet, a bad frame, a swap to a second
version, and a damaged third one, which leaves the second serving. What differs ends it with exit code 1.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from segpipe import RunDirectory, Segmenter, testing
from segpipe.triton.config import Copies
from segpipe.triton.repository import Request, write_repository
from tests.triton.runs import CONTRACT, with_end_to_end, with_engine
from tests.triton.server import Environment, serving

COUNT = 100
SIZES = ((32, 32), (48, 64), (120, 160), (37, 53))
LARGE = (480, 640)
MODEL, NARROW = "street", "narrow"


def main(environment: Path, work: Path) -> None:
    server, repository = Environment(environment.absolute()), work / "repository"
    run = RunDirectory(testing.make_run(work / "run", CONTRACT))
    request = Request(MODEL, threads=1)
    write_repository(run, repository, request)
    write_repository(run, repository, Request(NARROW, threads=1, instances=Copies(max_batch=1, queue=1)))
    store_pairs(run, work / "pairs.npz")
    report("configs that the server's protobuf read (parsed, not served)", **parsed(server, work))
    with serving(server, repository, MODEL, work / "server.log") as addresses:
        asked: dict[str, Any] = {"model": MODEL, "addresses": addresses, "configs": []}
        found = server.ask(work, **asked, count=COUNT, narrow=NARROW)
        report("masks equal to Segmenter's", **{name: f"{found[name]} of {COUNT}" for name in ("http", "grpc")})
        report("large frames at once", **found["crowd"], calls=found["calls"])
        report("the same, of which one may wait", **found["narrow"])
        report("a frame without pixels", refusal=found["refusal"])
        require(found["http"] == found["grpc"] == COUNT, "every mask must be Segmenter's")
        require({*found["crowd"]} == {"equal"}, "so must those of a crowd")
        require(found["calls"] < found["crowd"]["equal"], "frames that wait together must share a call")
        require({*found["narrow"]} == {"equal", "503"}, "what finds the queue full must be refused")
        require("frame" in found["refusal"] and "answered" not in found["refusal"], "a bad frame must be refused")
        second = write_repository(run, repository, request)[0]
        found = server.ask(work, **asked, load=True)
        report("after a second version", refused=found["refused"] or "nothing", ready=found["ready"])
        require((found["refused"], found["ready"]) == ("", ["2"]), "the second version must serve alone")
        damaged = repository / MODEL / "3"
        shutil.copytree(second, damaged)
        next(damaged.rglob("model.onnx")).write_bytes(b"damaged")
        found = server.ask(work, **asked, load=True)
        report("after a damaged third one", refused=found["refused"].splitlines()[0], ready=found["ready"])
        require(bool(found["refused"]) and found["ready"] == ["2"], "the second version must serve on")
        found = server.ask(work, **asked, count=COUNT, narrow=NARROW)
        require(found["http"] == COUNT, "and with the same masks")
        require("Traceback" not in (work / "server.log").read_text(), "the server's log must hold no complaint")


def parsed(server: Environment, work: Path) -> dict[str, Any]:
    """Of all variants; there is no backend for them in that wheel, so they are only read."""
    runs = {True: with_engine(work / "with-engine"), False: with_end_to_end(work / "with-graph")}
    versions: list[Path] = []
    for on_gpu, run in runs.items():
        request = Request(f"{MODEL}-{'gpu' if on_gpu else 'cpu'}", instances=Copies(2, on_gpu), bare=True)
        versions += write_repository(RunDirectory(run), work / "variants", request)
    configs = [str(version.parent / "config.pbtxt") for version in versions]
    found: dict[str, str] = server.ask(work, model=MODEL, addresses={}, configs=configs)["parsed"]
    wanted = ["onnxruntime", "onnxruntime", "onnxruntime", "python", "python", "tensorrt_plan"]
    require(sorted(found.values()) == wanted, "each variant must be there")
    return found


def store_pairs(run: RunDirectory, path: Path) -> None:
    """Frames of several sizes, and the masks that Segmenter gives."""
    frames = [testing.make_frame(*SIZES[number % len(SIZES)], number)[0] for number in range(COUNT)]
    large = testing.make_frame(*LARGE)[0]
    with Segmenter.open(run.path, "cpu", threads=1) as segmenter:
        masks = [segmenter(frame) for frame in frames]
        large_mask = segmenter(large)
    require(len({mask.tobytes() for mask in masks}) > COUNT // 2, "the masks must differ from each other")
    named = {f"{kind}{number}": array for kind, arrays in (("frame", frames), ("mask", masks))
             for number, array in enumerate(arrays)}  # fmt: skip
    np.savez(path, large_frame=large, large_mask=large_mask, **named)  # type: ignore[arg-type]  # its stubs take the names for options


def report(what: str, **found: Any) -> None:
    print(f"{what}: " + ", ".join(f"{name} {value}" for name, value in found.items()), flush=True)


def require(holds: bool, rule: str) -> None:
    if not holds:
        sys.exit(f"make triton: {rule}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(sys.argv[1]), Path(folder))
