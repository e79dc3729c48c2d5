"""What is exported: a trained network, or an imported graph. Both become an FP32 graph and a reference for it."""

from dataclasses import dataclass
from typing import Any

import onnx
import torch
from numpy.typing import NDArray

from segpipe.artifacts import FP32_GRAPH
from segpipe.contract.schema import AnyContract, read_any
from segpipe.palette import read_palette
from segpipe.rundir.directory import RunDirectory
from stages.export.equality import Network, joined, session
from stages.export.trace import trace
from stages.graphs.folding import fold
from stages.graphs.types import opset_of
from stages.models import checkpoint


@dataclass(frozen=True)
class ExportSource:
    """A graph that is not checked yet, and what it must be equal to."""

    graph: onnx.ModelProto
    reference: Network
    contract: AnyContract
    palette: Any
    figures: dict[str, Any]


def trained_source(data: bytes, opset: int) -> ExportSource:
    """The network of a model.safetensors."""
    trained = checkpoint.from_bytes(data)
    contract = trained.contract

    @torch.inference_mode()
    def reference(tensor: NDArray[Any]) -> NDArray[Any]:
        answer = trained.network(torch.from_numpy(tensor))
        named = dict(zip(contract.output_names, answer if isinstance(answer, tuple) else (answer,), strict=True))
        return joined([named[name].numpy() for name in contract.compared_names])

    figures = {"parameters": sum(tensor.numel() for tensor in trained.network.parameters()), "opset": opset}
    graph = trace(trained.network, trained.contract, opset)
    return ExportSource(graph, reference, trained.contract, trained.palette, figures)


def imported_contract(rundir: RunDirectory) -> AnyContract:
    """What stage `import` was told."""
    return read_any(rundir.artifact_bytes("import", "contract.json"), "import")


def imported_source(rundir: RunDirectory) -> ExportSource:
    """The graph of stage `import`; folding is ours, so the result is held to the graph as it came."""
    original = onnx.load_model_from_string(rundir.artifact_bytes("import", FP32_GRAPH))
    contract = imported_contract(rundir)
    palette = read_palette(rundir, "import", contract)
    folded = fold(original)
    weights = sum(int(onnx.numpy_helper.to_array(tensor).size) for tensor in folded.graph.initializer)
    figures = {"parameters": weights, "opset": opset_of(original)}
    return ExportSource(folded, session(original, contract), contract, palette, figures)
