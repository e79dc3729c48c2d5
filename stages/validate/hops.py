"""The hops from the trained network to what is deployed, as things that segment a frame on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
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
from stages.graphs.reading import to_bytes
from stages.graphs.rounding import rounded


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

    def margin(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """At every source pixel, how far the best class leads the second."""
        return _margin(self.scores(frame), frame, self._contract)


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

    def margin(self, frame: NDArray[Any]) -> NDArray[np.float32]:
        """As TorchAnswer; a network that ends in labels gives no margins."""
        if self._contract.output_kind == "labels":
            return np.zeros(frame.shape[:2], np.float32)
        scores = self.scores(frame)
        return _margin(
            scores if self._contract.output_layout == "nchw" else scores.transpose(0, 3, 1, 2), frame, self._contract
        )


def reference_answer(rundir: RunDirectory) -> TorchAnswer | OnnxRuntimeAnswer:
    """What everything else is held to: PyTorch FP32, or ONNX Runtime FP32 for an imported graph."""
    if "import" in rundir.manifest.stages:
        contract = Contract.from_json(rundir.artifact_bytes("import", "contract.json"), "import")
        return OnnxRuntimeAnswer(
            open_onnxruntime(rundir.artifact_bytes("import", "model.onnx"), contract, OpenOptions()), contract
        )
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", checkpoint.FILE_NAME))
    return TorchAnswer(trained.network, trained.contract)


@contextmanager
def open_hops(rundir: RunDirectory, contract: Contract) -> Iterator[list[Hop]]:
    """Every hop that this machine can run. On a CPU the FP16 graph is computed with every result rounded to FP16."""
    half = onnx.load_model_from_string(rundir.artifact_bytes("export", "model.fp16.onnx"))
    full_backend = open_onnxruntime(rundir.artifact_bytes("export", "model.onnx"), contract, OpenOptions())
    half_backend = open_onnxruntime(to_bytes(rounded(half)), contract, OpenOptions())
    try:
        yield [
            Hop("onnx", "export", "model.onnx", full_backend.name, OnnxRuntimeAnswer(full_backend, contract)),
            Hop("fp16", "export", "model.fp16.onnx", "onnxruntime-rounded", OnnxRuntimeAnswer(half_backend, contract)),
        ]
    finally:
        full_backend.close()
        half_backend.close()


@torch.inference_mode()
def _margin(scores: NDArray[Any], frame: NDArray[Any], contract: Contract) -> NDArray[np.float32]:
    """1xCxhxw scores to the lead of the best class, HxW."""
    full = reference.upsample(torch.from_numpy(scores), contract.place(*frame.shape[:2]))[0]
    if full.shape[0] == 1:
        return full[0].abs().numpy()
    best = full.topk(2, dim=0).values
    return (best[0] - best[1]).numpy()
