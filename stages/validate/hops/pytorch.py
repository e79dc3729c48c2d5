"""PyTorch's side of the gate: the FP32 reference, and the FP16 graph in rounded form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from segpipe.artifacts import CHECKPOINT, EXPORT, FP16_GRAPH, FP32_GRAPH, ON_CPU
from segpipe.contract.schema import AnyContract
from segpipe.errors import BackendError
from segpipe.instances import Instances
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import any_contract
from stages.models import checkpoint, reference
from stages.tasks import offline_task_of
from stages.validate.hops.hop import Answer, Answered, Hop, of_things
from stages.validate.hops.opening import STANDS, OpenHops, open_graph
from stages.validate.hops.rounded import BACKEND as ROUNDED
from stages.validate.hops.rounded import halved_anew, rounded_bytes


class TorchAnswer:
    """A module run by PyTorch with the definition of pre- and post-processing."""

    def __init__(self, network: nn.Module, contract: AnyContract) -> None:
        self.network, self._contract, self._task = network, contract, offline_task_of(contract)

    @torch.inference_mode()
    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """Masks and scores of some frames."""
        tensors = [self._tensor(frame) for frame in frames]
        if len({tensor.shape for tensor in tensors}) == 1:
            raw = _one_by_one(self.network(torch.cat(tensors)))
        else:
            raw = [self.network(tensor) for tensor in tensors]
        return [self._answered(frame, output) for frame, output in zip(frames, raw, strict=True)]

    def _tensor(self, frame: NDArray[Any]) -> torch.Tensor:
        return reference.preprocess(frame, self._contract, self._contract.place(*frame.shape[:2]))

    def _answered(self, frame: NDArray[Any], output: Any) -> Answered:
        decided = self._task.decide(output, self._contract.place(*frame.shape[:2]))
        return of_things(decided) if isinstance(decided, Instances) else Answered(decided, output[0].numpy())


def _one_by_one(outputs: Any) -> list[Any]:
    """A batch of outputs, one tensor or several, as batches of one."""
    if isinstance(outputs, torch.Tensor):
        return list(torch.split(outputs, 1))
    return list(zip(*(torch.split(output, 1) for output in outputs), strict=True))


@dataclass(frozen=True)
class Reference:
    """What everything else is held to."""

    name: str
    answer: Answer
    network: nn.Module | None
    """None for imported graphs."""
    rounded: Hop | None = None
    """The network with nothing but its results rounded to FP16; None where no hop computes less finely than FP32."""


def open_everything(opened: OpenHops, rundir: RunDirectory) -> Reference:
    """Open the reference and every hop that runs here.

    ONNX Runtime's CPU provider computes FP16 graphs in FP32: the shipped graph is judged with every result rounded.
    """
    fp32 = opened.open(ON_CPU, "onnx")
    if fp32 is None and "train" not in rundir.manifest.stages:
        reason = opened.not_run[-1].reason
        raise BackendError(f"the reference of an imported run, ONNX FP32, is {reason}", hint="segpipe doctor")
    reference_ = reference_of(rundir)
    held = {row: rundir.artifact_bytes(EXPORT, row.file) for row in STANDS if row.file in rundir.record(EXPORT).outputs}
    stands = {row.file: opened.open_rounded(row, rounded_bytes(graph), ROUNDED) for row, graph in held.items()}
    half, shipped = next((graph for row, graph in held.items() if row.file == FP16_GRAPH), None), stands.get(FP16_GRAPH)
    opened.open_deployed()
    if any(hop.precision != "fp32" for hop in opened.hops):
        anew = halved_anew(rundir.artifact_bytes(EXPORT, FP32_GRAPH), half)
        reference_ = replace(reference_, rounded=shipped if anew == half else _beside(anew, opened))
    return reference_


def _beside(graph: bytes, opened: OpenHops) -> Hop:
    """A graph that stands for no file of the run: it is not judged."""
    answer = open_graph(rounded_bytes(graph), opened.contract)
    return Hop("rounding", EXPORT, FP16_GRAPH, "", ROUNDED, CPU, answer, "fp16")


def reference_of(rundir: RunDirectory) -> Reference:
    """PyTorch FP32; for imported runs ONNX FP32."""
    if "train" in rundir.manifest.stages:
        return trained_reference(rundir)
    graph, contract = rundir.artifact_bytes(EXPORT, FP32_GRAPH), any_contract(rundir)
    return Reference("ONNX FP32", open_graph(graph, contract), None)


def trained_reference(rundir: RunDirectory) -> Reference:
    """PyTorch FP32."""
    trained = checkpoint.from_bytes(rundir.artifact_bytes("train", CHECKPOINT))
    return Reference("PyTorch FP32", TorchAnswer(trained.network, trained.contract), trained.network)
