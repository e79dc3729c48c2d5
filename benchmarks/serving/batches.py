"""Whether frames that meet are worth one call on a CPU: processor time a frame, by the number of frames in a call."""

import statistics
import time
from typing import Any

import onnx
import torch
from torch import nn

from benchmarks.serving.page import Outcome
from benchmarks.subjects import SUBJECTS
from segpipe import Segmenter, testing
from segpipe.artifacts import artifact_named
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions

NETWORKS, BACKENDS = ("LR-ASPP", "DDRNet-23-slim"), ("onnxruntime-cpu", "openvino")
BATCHES = (1, 2, 4, 8)
WARM, ROUNDS = 1, 5
LEAST_GAIN = 1.1  # below it, waiting for a second frame costs more than it brings


def measured() -> Outcome:
    """Eight frames, by the number of them in a call, in turns; the median of each round's ratio to one a call."""
    frames = [testing.make_frame(480, 640, seed)[0] for seed in range(max(BATCHES))]
    lines = [
        f"| network, backend | {' | '.join(f'{n} a call, ms' for n in BATCHES)} |",
        "|---|" + "---|" * len(BATCHES),
    ]
    best = 0.0
    for name in NETWORKS:
        network, contract = SUBJECTS[name].make()
        graph = _graph(network, contract)
        for backend in BACKENDS:
            taken = _taken(graph, contract, backend, frames)
            gains = {
                n: statistics.median(one / other for one, other in zip(taken[1], taken[n], strict=True))
                for n in BATCHES
            }
            cells = [f"{statistics.median(taken[n]):.1f} (x{gains[n]:.2f})" for n in BATCHES]
            lines.append(f"| {name}, {backend} | {' | '.join(cells)} |")
            best = max(best, *gains.values())
    return Outcome(lines, {f"no number of frames is {LEAST_GAIN:g} times as fast as one": best < LEAST_GAIN})


def _taken(graph: bytes, contract: Contract, backend: str, frames: list[Any]) -> dict[int, list[float]]:
    """Milliseconds of processor time a frame, each round, by batch."""
    row = artifact_named(backend)
    opened = load_opener(backend)(graph, contract, OpenOptions(threads=1, name=row.name, precision=row.precision))
    taken: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    with Segmenter(opened, contract, [(0, 0, 0)] * len(contract.classes)) as segmenter:
        for turn in range(-WARM, ROUNDS):
            for batch in BATCHES:
                begun = time.process_time()
                for start in range(0, len(frames), batch):
                    segmenter(frames[start : start + batch])
                if turn >= 0:
                    taken[batch].append(1000 * (time.process_time() - begun) / len(frames))
    return taken


def _graph(network: nn.Module, contract: Contract) -> bytes:
    """The network for any number of frames, with its contract."""
    assert contract.network_size is not None
    sample = torch.zeros(2, 3, *contract.network_size)
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.onnx.export(
        network,
        (sample,),
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=[contract.input_name],
        output_names=[contract.output_name],
        dynamic_shapes=shapes,
    )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    return bytes(model.SerializeToString())
