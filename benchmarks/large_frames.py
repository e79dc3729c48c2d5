"""Frames much larger than the network, before and after: `python -m benchmarks.large_frames CAMVID_FOLDER`.

Old is pre- and post-processing as of 09d22e2: every pixel of the frame through the table, labels by indexing every
pixel of the mask, one core. How scores were blended comes from a checkout that `--old` names (216b3e7 blends as 09d22e2
did, and has its modules where they are now); without one they are blended as now. Old, new and others take turns in the
same rounds, and their masks are compared.
"""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.light_mobilenet import light_mobilenet
from segpipe.contract.schema import METADATA_KEY, Contract, Placement
from segpipe.media.images import read_image
from segpipe.runtime.backends import onnxruntime as cpu
from segpipe.runtime.backends.host import HostBackend
from segpipe.runtime.geometry import axes
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import normalisation, preprocess
from segpipe.runtime.request import OpenOptions
from segpipe.runtime.segmenter import Segmenter
from stages.benchmark.machine import machine
from stages.measuring.rounds import Contestant, interleave, latency, ratio_of_medians

_SECONDS = 300.0  # at most, for each subject
_UNCERTAIN = 0.02  # added to the share of each class before the logarithm
_GREY = 114  # of the exporter's bars

Array = NDArray[Any]


class _KnownScores(nn.Module):
    """A network with random weights, for its time, whose answer is scores that are given."""

    def __init__(self, network: nn.Module, scores: Array) -> None:
        super().__init__()
        self.network, self.real = network, nn.Buffer(torch.from_numpy(scores)[None])

    def forward(self, image: Tensor) -> Tensor:
        own: Tensor = self.network(image)
        return self.real + 1e-6 * own


class _Labels(nn.Module):
    """A few convolutions and an argmax: stands in for a small exported network that answers labels."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        sides = ((3, 16), (16, 32), (32, 32), (32, 32), (32, classes))
        layers = [nn.Conv2d(*channels, 3, stride=2 if n < 2 else 1, padding=1) for n, channels in enumerate(sides)]
        parts = [part for layer in layers for part in (layer, nn.ReLU())]
        self.layers = nn.Sequential(*parts, nn.UpsamplingNearest2d(scale_factor=4))

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.layers(image)
        return scores.argmax(1)


@dataclass(frozen=True)
class Subject:
    """An open network and a frame for it."""

    contract: Contract
    graph: bytes
    backend: HostBackend
    segmenter: Segmenter
    frame: Array
    placement: Placement
    blend: Callable[[Array, Contract, Placement], Array] = postprocess
    """Scores to a mask, the old way."""


def blending_of(checkout: Path) -> Callable[[Array, Contract, Placement], Array]:
    """`postprocess` of another checkout, with the geometry that it had."""
    names = ("segpipe.runtime.geometry", "segpipe.runtime.postprocess")
    ours = {name: sys.modules[name] for name in names}
    try:
        for name in names:
            spec = spec_from_file_location(name, checkout.joinpath(*name.split(".")).with_suffix(".py"))
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        theirs: Callable[[Array, Contract, Placement], Array] = sys.modules[names[1]].postprocess
        return theirs
    finally:
        sys.modules.update(ours)


def scores_subject(camvid: Path, threads: int) -> Subject:
    """CamVid's network of `camvid-cpu`, 384x480 and 11 classes, on 1080x1920; scores made from the frame's labels."""
    frame, labels = _enlarged(camvid, (1080, 1920))
    contract = Contract(classes=tuple(map(str, range(11))), network_size=(384, 480), fit="letterbox", output_stride=4)
    network = _KnownScores(light_mobilenet(3, 11), _scores_of(labels, contract)).eval()
    return _subject(network, contract, frame, threads)


def labels_subject(camvid: Path, threads: int) -> Subject:
    """A small network of about 5 ms that answers 256x320 labels, on 1024x2048."""
    frame, _ = _enlarged(camvid, (1024, 2048))
    contract = Contract(
        classes=tuple(map(str, range(19))), network_size=(256, 320), fit="letterbox", output_kind="labels",
        mean=(0.0,) * 3, std=(1.0,) * 3,
    )  # fmt: skip
    return _subject(_Labels(19).eval(), contract, frame, threads)


def old_way(subject: Subject) -> Array:
    """Frame to mask as of 09d22e2."""
    tensor = old_preprocess(subject.frame, subject.contract, subject.placement)
    return old_postprocess(subject.backend.scores(tensor[None])[0], subject)


def old_preprocess(frame: Array, contract: Contract, placement: Placement) -> Array:
    """Every pixel through the table, then one resize."""
    scale, shift = normalisation(contract)
    table = np.arange(256, dtype=np.float32)[:, None] * scale + shift
    (top, left), (height, width) = placement.offset, placement.resized
    planes = np.zeros((contract.channels, *placement.canvas), np.float32)
    resized = cv2.resize(cv2.LUT(frame, table[None]), (width, height))
    cv2.split(resized, [plane[top : top + height, left : left + width] for plane in planes])
    return planes


def old_postprocess(answer: Array, subject: Subject) -> Array:
    """Labels by indexing every pixel; scores as the old checkout blends them."""
    if subject.contract.output_kind != "labels":
        return subject.blend(answer, subject.contract, subject.placement)
    rows, columns = axes(subject.placement, *answer.shape)
    return answer[rows.nearest[:, None], columns.nearest].astype(subject.contract.mask_dtype)


def exporters_predictor(subject: Subject, threads: int) -> Contestant:
    """What exporters of label networks document: 8-bit letterbox on grey, 1/255, the session, crop, nearest."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(subject.graph, options, providers=["CPUExecutionProvider"])
    (top, left), (height, width) = subject.placement.offset, subject.placement.resized

    def predict(_: int) -> Array:
        canvas = np.full((*subject.placement.canvas, 3), _GREY, np.uint8)
        canvas[top : top + height, left : left + width] = cv2.resize(subject.frame, (width, height))
        tensor = canvas.transpose(2, 0, 1)[None].astype(np.float32) / 255
        labels = session.run(None, {subject.contract.input_name: tensor})[0][0].astype(np.uint8)
        inner = np.ascontiguousarray(labels[top : top + height, left : left + width])
        return cv2.resize(inner, subject.frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)

    return predict


def measure(subject: Subject, rounds: int, more: dict[str, Contestant]) -> dict[str, Any]:
    """Old and new whole, their sides alone, and the network alone, interleaved."""
    contract, frame, placement = subject.contract, subject.frame, subject.placement
    tensor = preprocess(frame, contract, placement)
    answer = subject.backend.scores(tensor[None])[0]
    contestants: dict[str, Contestant] = {
        "old": lambda _: old_way(subject),
        "new": lambda _: subject.segmenter(frame),
        "network": lambda _: subject.backend.scores(tensor[None]),
        "old_pre": lambda _: old_preprocess(frame, contract, placement),
        "new_pre": lambda _: preprocess(frame, contract, placement, tensor),
        "old_post": lambda _: old_postprocess(answer, subject),
        "new_post": lambda _: postprocess(answer, contract, placement),
        **more,
    }
    samples = interleave(contestants, rounds, _SECONDS).samples
    ratios = {f"{name}_over_new": ratio_of_medians(samples[name], samples["new"]) for name in ("old", "network", *more)}
    return {
        "latency": {name: asdict(latency(values)) for name, values in samples.items()},
        **ratios,
        "cpu_ms_beside_the_network": sides(subject, 4 * rounds),
        "pixels_unlike_old": int((subject.segmenter(frame) != old_way(subject)).sum()),
        "tensor_unlike_old": float(np.abs(tensor - old_preprocess(frame, contract, placement)).max()),
    }


def sides(subject: Subject, rounds: int) -> dict[str, list[float]]:
    """CPU time of one core before and after the network, quartiles in ms: says something beside other work, too."""
    contract, frame, placement = subject.contract, subject.frame, subject.placement
    tensor = preprocess(frame, contract, placement)
    answer = subject.backend.scores(tensor[None])[0].copy()
    works: dict[str, Callable[[], object]] = {
        "old_pre": lambda: old_preprocess(frame, contract, placement),
        "new_pre": lambda: preprocess(frame, contract, placement, tensor),
        "old_post": lambda: old_postprocess(answer, subject),
        "new_post": lambda: postprocess(answer, contract, placement),
    }
    threads, found = cv2.getNumThreads(), {name: list[float]() for name in works}
    cv2.setNumThreads(1)
    for _ in range(rounds):
        for name, work in works.items():
            begin = time.thread_time_ns()
            work()
            found[name].append((time.thread_time_ns() - begin) / 1e6)
    cv2.setNumThreads(threads)
    return {name: [round(float(ms), 2) for ms in np.percentile(times, [25, 50, 75])] for name, times in found.items()}


def report(camvid: Path, rounds: int, threads: int, old: Path | None = None) -> dict[str, Any]:
    """Both subjects."""
    scores, labels = scores_subject(camvid, threads), labels_subject(camvid, threads)
    scores = replace(scores, blend=blending_of(old) if old else postprocess)
    predictor = {"exporters_predictor": exporters_predictor(labels, threads)}
    return {
        "CamVid's network, 384x480 from 1080x1920": measure(scores, rounds, {}),
        "labels of 256x320 from 1024x2048": measure(labels, rounds, predictor),
    }


def graph_of(network: nn.Module, contract: Contract) -> bytes:
    """The network as an ONNX file with its contract."""
    assert contract.network_size is not None
    program = torch.onnx.export(
        network,
        (torch.zeros(1, 3, *contract.network_size),),
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=[contract.input_name],
        output_names=[contract.output_name],
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return model.SerializeToString()


def _subject(network: nn.Module, contract: Contract, frame: Array, threads: int) -> Subject:
    graph = graph_of(network, contract)
    backend = cpu.open(graph, contract, OpenOptions(threads=threads))
    segmenter = Segmenter(backend, contract, [(0, 0, 0)] * len(contract.classes))
    return Subject(contract, graph, backend, segmenter, frame, contract.place(*frame.shape[:2]))


def _enlarged(camvid: Path, size: tuple[int, int]) -> tuple[Array, Array]:
    """A test frame of CamVid with its labels, enlarged to this width and cut to this height."""
    source = sorted((camvid / "test").iterdir())[20]
    frame, labels = read_image(source), read_image(camvid / "testannot" / f"{source.stem}.png").squeeze()
    whole = (size[1], frame.shape[0] * size[1] // frame.shape[1])
    top = (whole[1] - size[0]) // 2
    large, classes = cv2.resize(frame, whole), cv2.resize(labels, whole, interpolation=cv2.INTER_NEAREST)
    return np.ascontiguousarray(large[top : top + size[0]]), classes[top : top + size[0]]


def _scores_of(labels: Array, contract: Contract) -> Array:
    """Logarithms of each class's share around every score, as a trained network's scores fall off at borders."""
    placement, stride = contract.place(*labels.shape), contract.output_stride
    (top, left), size = (side // stride for side in placement.offset), [side // stride for side in placement.resized]
    scores = np.full((len(contract.classes), *(side // stride for side in placement.canvas)), _UNCERTAIN, np.float32)
    for label, plane in enumerate(scores):
        share = cv2.resize((labels == label).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        plane[top : top + size[0], left : left + size[1]] += cv2.GaussianBlur(share, (0, 0), 1.0)
    noise = np.random.default_rng(0).standard_normal(scores.shape)
    return np.log(scores + 1e-3 * np.abs(noise)).astype(np.float32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("camvid", type=Path, help="SegNet's CamVid: test/ and testannot/")
    parser.add_argument("--old", type=Path, help="a checkout whose blending of scores is the old one")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    found = report(options.camvid, options.rounds, options.threads, options.old)
    about = {"machine": machine().model_dump(), "threads": options.threads, "rounds": options.rounds}
    print(json.dumps({**about, **found}, indent=2))


if __name__ == "__main__":
    main()
