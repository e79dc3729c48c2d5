"""The CPU runtime against its targets: `python -m benchmarks.runtime_cpu runs/demo`. Writes results/runtime_cpu.json.

The network is LR-ASPP MobileNetV3-L with random weights, whose speed is that of trained ones. Post-processing depends
on the scores, so the graph adds real ones: a trained demo run's scores of its test frames, laid side by side.
"""

import argparse
import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import lraspp_mobilenet_v3_large
from torchvision.transforms import functional as T

from benchmarks import large_frames
from benchmarks.large_frames import graph_of
from segpipe.artifacts import artifacts_of
from segpipe.contract.schema import Contract
from segpipe.processor import computes
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.backends import load_opener, onnxruntime
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.borders import argmax, mixed_cells
from segpipe.runtime.geometry import axes
from segpipe.runtime.opening import run_contract
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.segmenter import Segmenter
from stages.benchmark.machine import machine
from stages.config.root import ShapesData
from stages.data.shapes import ShapesSplit
from stages.measuring.rounds import Contestant, interleave, latency, ratio_of_medians

FRAME, NETWORK, STRIDE = (1024, 2048), (512, 1024), 8
RESULTS = Path(__file__).parent / "results" / "runtime_cpu.json"
STREAMED = 12  # frames a round of the throughput contest
_SECONDS = 600.0  # at most, for each contest


class WithScores(nn.Module):
    """LR-ASPP at its own stride; its random scores are made too small to matter beside the real ones."""

    def __init__(self, scores: NDArray[np.float32]) -> None:
        super().__init__()
        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(scores))
        self.real = nn.Buffer(torch.from_numpy(scores)[None])

    def forward(self, image: Tensor) -> Tensor:
        own: Tensor = self.network.classifier(self.network.backbone(image))
        return self.real + 1e-6 * own


@dataclass(frozen=True)
class Setting:
    """One network, opened by ONNX Runtime, with a frame and its tensor."""

    contract: Contract
    module: WithScores
    graph: bytes
    segmenter: Segmenter
    backend: HostBackend
    frame: NDArray[Any]
    scores: NDArray[np.float32]


def real_scores(run: RunDirectory, classes: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Scores of the demo's test frames side by side, each tile's five classes spread over `classes`."""
    contract = run_contract(run)
    backend = onnxruntime.open(run.artifact_bytes("export", "model.onnx"), contract, OpenOptions())
    split = ShapesSplit(ShapesData(kind="shapes"), "test")
    first = backend.infer([split.sample(0)[0]], Outputs(scores=True))[0].scores
    assert first is not None
    height, width = first.shape[1:]
    down, across = -(-size[0] // height), -(-size[1] // width)
    sheet = np.full((classes, down * height, across * width), first.min(), np.float32)
    for tile in range(down * across):
        scores = backend.infer([split.sample(tile)[0]], Outputs(scores=True))[0].scores
        assert scores is not None
        y, x = (tile // across) * height, (tile % across) * width
        targets = [(4 * tile + k) % classes for k in range(len(scores))]
        sheet[targets, y : y + height, x : x + width] = scores
    noise = np.asarray(np.random.default_rng(0).standard_normal(sheet.shape), np.float32)
    return np.ascontiguousarray(sheet[:, : size[0], : size[1]] + 0.1 * noise[:, : size[0], : size[1]])


def prepare(run: RunDirectory, classes: int, threads: int) -> Setting:
    """Export the network with its contract and open it."""
    contract = Contract(classes=tuple(map(str, range(classes))), network_size=NETWORK, output_stride=STRIDE)
    scores = real_scores(run, classes, (NETWORK[0] // STRIDE, NETWORK[1] // STRIDE))
    torch.manual_seed(0)
    module = WithScores(scores).eval()
    graph = graph_of(module, contract)
    backend = onnxruntime.open(graph, contract, OpenOptions(threads=threads))
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME, 3), np.uint8)
    palette = [(0, 0, 0)] * classes
    return Setting(contract, module, graph, Segmenter(backend, contract, palette), backend, frame, scores)


@torch.inference_mode()
def usual_way(setting: Setting) -> NDArray[Any]:
    """What a PyTorch user writes: torchvision's transforms, the eager network, interpolate, argmax."""
    image = T.normalize(
        T.resize(T.to_tensor(setting.frame), list(NETWORK), antialias=True),
        list(setting.contract.mean),
        list(setting.contract.std),
    )
    scores = setting.module(image[None])
    return F.interpolate(scores, FRAME, mode="bilinear", align_corners=False)[0].argmax(0).numpy()


def whole_frame(setting: Setting, rounds: int) -> dict[str, Any]:
    """End to end and its parts, beside the bare session and the usual way."""
    contract, frame = setting.contract, setting.frame
    placement = contract.place(*FRAME)
    tensor = preprocess(frame, contract, placement)[np.newaxis].copy()
    buffer = np.empty_like(tensor)
    scores = setting.backend.scores(tensor)[0]

    def around(_: int) -> None:
        preprocess(frame, contract, placement, buffer[0])
        postprocess(scores, contract, placement)

    samples = timed(
        {
            "bare": lambda _: setting.backend.scores(tensor),
            "whole": lambda _: setting.segmenter(frame),
            "pre_and_post": around,
            "usual": lambda _: usual_way(setting),
        },
        rounds,
    )
    agreement = float((setting.segmenter(frame) == usual_way(setting)).mean())
    return {
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        "pre_and_post_of_bare": ratio_of_medians(samples["pre_and_post"], samples["bare"]),
        "whole_of_bare": ratio_of_medians(samples["whole"], samples["bare"]),
        "faster_than_usual": ratio_of_medians(samples["usual"], samples["whole"]),
        "agreement_with_usual": agreement,
        "mixed_cells": mixed_share(setting.scores),
    }


def post_alone(run: RunDirectory, classes: int, rounds: int) -> dict[str, Any]:
    """Scores at stride 8 of the frame itself, to a mask, three ways."""
    scores = real_scores(run, classes, (FRAME[0] // STRIDE, FRAME[1] // STRIDE))
    contract = Contract(classes=tuple(map(str, range(classes))), network_size=FRAME, output_stride=STRIDE)
    placement = contract.place(*FRAME)
    tensor, nhwc = torch.from_numpy(scores)[None], np.ascontiguousarray(scores.transpose(1, 2, 0))

    def by_torch(_: int) -> NDArray[Any]:
        return F.interpolate(tensor, FRAME, mode="bilinear", align_corners=False)[0].argmax(0).numpy()

    def by_opencv(_: int) -> NDArray[Any]:
        return cv2.resize(nhwc, FRAME[::-1], interpolation=cv2.INTER_LINEAR).argmax(2)

    def ours(_: int) -> NDArray[Any]:
        return postprocess(scores, contract, placement)

    samples = timed({"ours": ours, "torch": by_torch, "opencv": by_opencv}, rounds)
    return {
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        "faster_than_torch": ratio_of_medians(samples["torch"], samples["ours"]),
        "faster_than_opencv": ratio_of_medians(samples["opencv"], samples["ours"]),
        "pixels_unlike_torch": int((ours(0) != by_torch(0)).sum()),
        "mixed_cells": mixed_share(scores),
    }


def timed(contestants: dict[str, Contestant], rounds: int) -> dict[str, NDArray[np.int64]]:
    """Interleaved rounds after a warm-up of each."""
    for contestant in contestants.values():
        contestant(0)
    return interleave(contestants, rounds, _SECONDS).samples


def by_openvino(setting: Setting, rounds: int) -> dict[str, Any]:
    """The whole frame by OpenVINO, in each precision that this processor has, beside ONNX Runtime."""
    contract, frame, usual = setting.contract, setting.frame, setting.segmenter
    options = OpenOptions(threads=usual.describe()["threads"])
    names = [row.name for row in artifacts_of("openvino") if computes(row.precision)]
    opened = {name: load_opener(name)(setting.graph, contract, options) for name in names}
    ways = {usual.describe()["backend"]: usual} | {
        name: Segmenter(backend, contract, usual.palette) for name, backend in opened.items()
    }
    samples = timed({name: partial(_mask, way, frame) for name, way in ways.items()}, rounds)
    base, *others = ways
    return {
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        "faster": {name: ratio_of_medians(samples[base], samples[name]) for name in others},
        "agreement": {name: float((ways[name](frame) == usual(frame)).mean()) for name in others},
    }


def _mask(segmenter: Segmenter, frame: NDArray[Any], _: int) -> NDArray[Any]:
    return segmenter(frame)


def streaming(setting: Setting, rounds: int) -> dict[str, Any]:
    """Throughput of `stream` beside a plain loop."""
    frames = [setting.frame] * STREAMED
    samples = timed(
        {
            "loop": lambda _: [setting.segmenter(frame) for frame in frames],
            "stream": lambda _: list(setting.segmenter.stream(frames)),
        },
        rounds,
    )
    return {
        "frames": STREAMED,
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        "stream_over_loop": ratio_of_medians(samples["loop"], samples["stream"]),
    }


def opening(run: RunDirectory, threads: int, rounds: int) -> dict[str, Any]:
    """Opening the run directory beside loading its graph alone."""
    graph, contract = run.artifact_bytes("export", "model.onnx"), run_contract(run)
    samples = timed(
        {
            "open": lambda _: Segmenter.open(run.path, threads=threads, allow_unvalidated=True).close(),
            "backend": lambda _: onnxruntime.open(graph, contract, OpenOptions(threads=threads)).close(),
        },
        rounds,
    )
    own_ms = float(np.median(samples["open"]) - np.median(samples["backend"])) / 1e6
    return {
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        "beside_the_backend_ms": round(own_ms, 2),
    }


def mixed_share(scores: NDArray[np.float32]) -> float:
    """Share of the cells that lie on a border between classes."""
    placement = Contract(classes=("a", "b"), network_size=FRAME).place(*FRAME)
    return round(float(mixed_cells(argmax(scores), *axes(placement, *scores.shape[1:])).mean()), 4)


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a trained demo run (`segpipe demo`)")
    parser.add_argument("--camvid", type=Path, help="SegNet's CamVid: frames much larger than the network as well")
    parser.add_argument("--old", type=Path, help="a checkout: its blending of scores, in benchmarks.large_frames")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    run = RunDirectory(options.run)
    report: dict[str, Any] = {"machine": machine().model_dump(), "threads": options.threads, "rounds": options.rounds}
    for classes in (11, 19):
        setting = prepare(run, classes, options.threads)
        report[f"whole frame, {classes} classes"] = whole_frame(setting, options.rounds)
        if find_spec("openvino") is not None:
            report[f"by OpenVINO, {classes} classes"] = by_openvino(setting, options.rounds)
        report[f"stream, {classes} classes"] = streaming(setting, max(options.rounds // 2, 5))
        setting.segmenter.close()
    report["post-processing alone, 19 classes"] = post_alone(run, 19, options.rounds)
    report["opening"] = opening(run, options.threads, options.rounds)
    if options.camvid is not None:
        report |= large_frames.report(options.camvid, options.rounds, options.threads, options.old)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
