"""One cell of the grid: who takes part for a network, a size, a precision and a batch, measured turn by turn."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu import rivals
from benchmarks.gpu.graphs import Subject
from benchmarks.gpu.runs import ORT
from segpipe.contract.schema import Contract
from segpipe.runtime.backends import load_opener
from segpipe.runtime.request import OpenOptions, Outputs
from segpipe.runtime.trt import Flavour
from segpipe.runtime.trt.building import BuildRequest, ShapeRange, build_engine
from stages.measuring.rounds import FAILURES, first_line, interleave, latency, warm_up
from stages.models import checkpoint

Precision = Literal["fp16", "fp32"]
BATCHES = (1, 8)
PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32")
_ROUNDS, _ROUNDS_S, _WARM_S = 50, 2.5, 0.5
_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_GRAPHS = {"fp16": "model.fp16.onnx", "fp32": "model.onnx"}


@dataclass(frozen=True)
class Network:
    """A made network's files."""

    folder: Path

    @property
    def contract(self) -> Contract:
        """What they all promise."""
        return Contract.from_json((self.folder / "contract.json").read_text(), str(self.folder))

    def graph(self, precision: Precision) -> bytes:
        """ONNX."""
        return (self.folder / _GRAPHS[precision]).read_bytes()

    def module(self) -> torch.nn.Module:
        """PyTorch, in FP32 on the CPU; each contestant takes one of its own."""
        return checkpoint.from_bytes((self.folder / checkpoint.FILE_NAME).read_bytes()).network


def label(subject: Subject, precision: str, batch: int) -> str:
    """A cell's name in the results."""
    return f"{subject.network} {subject.size[0]}x{subject.size[1]} {precision} batch {batch}"


@contextmanager
def opened(
    network: Network, precision: Precision, flavours: list[Flavour]
) -> Iterator[tuple[dict[str, rivals.Masks], dict[str, str]]]:
    """Ours and the rivals that open quickly, and why others did not open."""
    contract, graph = network.contract, network.graph(precision)
    with ExitStack() as stack:
        wanted: dict[str, Callable[[], rivals.Masks]] = {
            f"segpipe {flavour}": partial(_engine, flavour, graph, contract, stack) for flavour in flavours
        }
        wanted[f"segpipe {ORT}"] = partial(_ours, ORT, graph, contract, stack)
        wanted[f"PyTorch eager {precision}"] = lambda: rivals.eager(network.module(), contract, _DTYPES[precision])
        wanted["ONNX Runtime CUDA, PyTorch pre/post"] = partial(rivals.onnx_cuda, graph, contract)
        yield attempt(wanted)
    gc.collect()
    torch.cuda.empty_cache()


def attempt(wanted: Mapping[str, Callable[[], rivals.Masks]]) -> tuple[dict[str, rivals.Masks], dict[str, str]]:
    """Those that open, and the reasons of the others."""
    able, reasons = {}, {}
    for name, opener in wanted.items():
        try:
            able[name] = opener()
        except FAILURES as error:
            reasons[name] = first_line(error)
    return able, reasons


def measure(contestants: Mapping[str, rivals.Masks], size: tuple[int, int], batch: int) -> dict[str, Any]:
    """Milliseconds a batch, host to host: [median, its 95 % interval], or why there is none."""
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (batch, *size, 3), np.uint8) for _ in range(4)]
    found: dict[str, Any] = {}
    calls = {}
    for name, masks in contestants.items():
        call = partial(_call, masks, batches)
        try:
            warm_up(call, _WARM_S, most=20)
        except FAILURES as error:
            found[name] = first_line(error)
        else:
            calls[name] = call
    rounds = interleave(calls, _ROUNDS, _ROUNDS_S)
    for name, values in rounds.samples.items():
        figures = latency(values) if len(values) else None
        found[name] = [figures.p50_ms, figures.p50_low_ms, figures.p50_high_ms] if figures else rounds.failed[name]
    return found


def _call(masks: rivals.Masks, batches: list[NDArray[Any]], number: int) -> object:
    return masks(batches[number % len(batches)])


def _engine(flavour: Flavour, graph: bytes, contract: Contract, stack: ExitStack) -> rivals.Masks:
    """An engine with one profile a batch, for this GPU."""
    assert contract.network_size is not None
    shapes = [(batch, contract.channels, *contract.network_size) for batch in BATCHES]
    request = BuildRequest(graph, contract.input_name, [ShapeRange(shape, shape, shape) for shape in shapes])
    return _ours(flavour, build_engine(flavour, request).plan, contract, stack)


def _ours(backend: str, artifact: bytes, contract: Contract, stack: ExitStack) -> rivals.Masks:
    runtime = load_opener(backend)(artifact, contract, OpenOptions())
    stack.callback(runtime.close)
    return lambda frames: runtime.infer([*frames], Outputs())
