"""The hops from the trained network to what is deployed, as things that segment a frame on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segpipe.contract import Contract
from segpipe.rundir import RunDirectory
from segpipe.runtime.backends.onnxruntime import OnnxRuntimeCpu
from segpipe.runtime.backends.onnxruntime import open as open_onnxruntime
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs
from stages import checkpoint, reference
from stages.config import Config
from stages.half import to_half


class Answer(Protocol):
    """Raw scores and the mask of one frame."""

    def scores(self, frame: NDArray[Any]) -> NDArray[Any]: ...
    def mask(self, frame: NDArray[Any]) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Hop:
    """One thing to be judged: an artifact of the run, on a backend."""

    name: str
    stage: str
    artifact: str
    backend: str
    answer: Answer


class TorchAnswer:
    """A module run by PyTorch with the definition of pre- and post-processing."""

    def __init__(self, network: nn.Module, contract: Contract) -> None:
        self._network, self._contract = network, contract

    @torch.inference_mode()
    def scores(self, frame: NDArray[Any]) -> NDArray[Any]:
        """1xCxhxw."""
        placement = self._contract.place(*frame.shape[:2])
        scores: NDArray[Any] = self._network(reference.preprocess(frame, self._contract, placement)).numpy()
        return scores

    def mask(self, frame: NDArray[Any]) -> NDArray[Any]:
        """HxW."""
        return reference.segment(self._network, frame, self._contract)

    @torch.inference_mode()
    def margin(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """At every source pixel, how far the best class leads the second."""
        scores = torch.from_numpy(self.scores(frame))
        full = reference.upsample(scores, self._contract.place(*frame.shape[:2]))[0]
        if full.shape[0] == 1:
            return full[0].abs().numpy()
        best = full.topk(2, dim=0).values
        return (best[0] - best[1]).numpy()


class OnnxRuntimeAnswer:
    """The runtime that production uses, end to end."""

    def __init__(self, backend: OnnxRuntimeCpu, contract: Contract) -> None:
        self._backend, self._contract = backend, contract

    def scores(self, frame: NDArray[Any]) -> NDArray[Any]:
        """1xCxhxw."""
        tensor = preprocess(frame, self._contract, self._contract.place(*frame.shape[:2]))
        return self._backend.scores(tensor[np.newaxis])

    def mask(self, frame: NDArray[Any]) -> NDArray[Any]:
        """HxW."""
        return self._backend.infer([frame], Outputs())[0].mask


def reference_answer(rundir: RunDirectory) -> TorchAnswer:
    """PyTorch FP32: what everything else is held to."""
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    return TorchAnswer(trained.network, trained.contract)


@contextmanager
def open_hops(rundir: RunDirectory, config: Config) -> Iterator[list[Hop]]:
    """Every hop that this machine can run. ONNX Runtime's CPU provider is no judge of FP16: PyTorch runs that."""
    half = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    to_half(half.network, config.export.fp32_islands)
    backend = open_onnxruntime(rundir.artifact_bytes("export", "model.onnx"), half.contract, OpenOptions())
    try:
        yield [
            Hop("onnx", "export", "model.onnx", backend.name, OnnxRuntimeAnswer(backend, half.contract)),
            Hop("fp16", "export", "model.fp16.onnx", "pytorch-fp16", TorchAnswer(half.network, half.contract)),
        ]
    finally:
        backend.close()
