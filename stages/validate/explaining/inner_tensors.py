"""Networks that show their inner tensors: PyTorch modules by hooks, ONNX graphs by extra outputs."""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.graphs.naming import module_of
from stages.graphs.types import at_own_batch

ROOT = ""  # the whole network: its output


@dataclass(frozen=True)
class Executed:
    """What one run of a module tells: every module in the order they finished, with its output's greatest magnitude."""

    peaks: dict[str, float]
    leaves: tuple[str, ...]


@torch.inference_mode()
def execute(network: nn.Module, tensor: NDArray[Any]) -> Executed:
    """Run once and watch; no tensor is kept."""
    peaks: dict[str, float] = {}
    leaves: list[str] = []

    def watch(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in peaks and not any(True for _ in module.children()):
            leaves.append(name)
        peaks[name] = max(peaks.get(name, 0.0), float(output.abs().max()))

    _run_hooked(network, tensor, dict(network.named_modules()), watch)
    return Executed(peaks, tuple(leaves))


class ModuleSide:
    """A module; checkpoints are its sub-modules' names, or ROOT."""

    def __init__(self, network: nn.Module, tensor: NDArray[Any]) -> None:
        self._network, self._tensor = network, tensor

    @torch.inference_mode()
    def __call__(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """One run; of a module that is called twice the first output counts."""
        shown: dict[str, NDArray[Any]] = {}

        def keep(name: str, _: nn.Module, output: Tensor) -> None:
            shown.setdefault(name, output.float().numpy().copy())

        modules = dict(self._network.named_modules())
        _run_hooked(self._network, self._tensor, {name: modules[name] for name in names}, keep)
        return shown


class GraphSide:
    """An ONNX graph run by ONNX Runtime; `tensors` says which of its tensors each checkpoint is."""

    def __init__(self, graph: bytes, tensor: NDArray[Any], tensors: dict[str, str]) -> None:
        self._model = onnx.load_from_string(graph)
        self._tensor, self._tensors = tensor, tensors

    def __call__(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """One run with the checkpoints as outputs."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        own = {output.name for output in model.graph.output}
        wanted = [self._tensors[name] for name in names]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(wanted) if name not in own)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        values = session.run(wanted, {model.graph.input[0].name: at_own_batch(model, self._tensor)})
        return {name: np.asarray(value, np.float32) for name, value in zip(names, values, strict=True)}


def module_nodes(graph: bytes) -> dict[str, onnx.NodeProto]:
    """The last node that each PyTorch module left in the graph; its first output is the module's."""
    found: dict[str, onnx.NodeProto] = {}
    for node in onnx.load_from_string(graph).graph.node:
        if module := module_of(node):
            found[module] = node
    return found


def made_by(graph: bytes, tensor: str) -> onnx.NodeProto | None:
    """The node that makes a tensor."""
    nodes: Iterable[onnx.NodeProto] = onnx.load_from_string(graph).graph.node
    return next((node for node in nodes if tensor in node.output), None)


def _run_hooked(network: nn.Module, tensor: NDArray[Any], modules: dict[str, nn.Module], watch: Any) -> None:
    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(_hook(name, watch)))
        network(torch.from_numpy(tensor))


def _hook(name: str, watch: Any) -> Any:
    def hook(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            watch(name, module, output)

    return hook
