"""Words for what TensorRT's parser refuses: the node, the PyTorch module and line it came from, and what to try."""

import onnx

from segpipe.errors import BuildError
from segpipe.runtime.trt.building import GraphRefusedError, Problem
from stages.graphs.naming import describe

_ADVICE = {
    "MaxPool": "pool without indices: TensorRT has no unpooling",
    "MaxUnpool": "replace unpooling by comparing the pooled windows, or by interpolation",
    "NonZero": "avoid shapes that depend on values (masked indexing, torch.nonzero)",
    "Resize": "use mode 'bilinear' or 'nearest' with align_corners=False and no antialiasing",
    "GridSample": "export with a newer opset (export.opset), or warp outside the network",
    "Einsum": "write it as torch.matmul",
    "Loop": "unroll the loop in the network's forward",
    "If": "make the branch depend on the network's settings, not on tensors",
}
_DEFAULT = "replace this operator in the network, or try another export.opset (17 to 22)"


def explained(error: GraphRefusedError, graph: bytes) -> BuildError:
    """The same refusal for a person who knows the PyTorch network, not its graph."""
    nodes = {node.name: node for node in onnx.load_model_from_string(graph).graph.node}
    told = [_line(problem, nodes) for problem in error.problems] or [error.message]
    operators = [problem.operator for problem in error.problems]
    advice = next((_ADVICE[operator] for operator in operators if operator in _ADVICE), _DEFAULT)
    return BuildError(f"TensorRT cannot read the graph: {'; '.join(told)}", hint=advice)


def _line(problem: Problem, nodes: dict[str, onnx.NodeProto]) -> str:
    node = nodes.get(problem.node)
    where = describe(node) if node is not None else " ".join(filter(None, (problem.operator, problem.node))) or "graph"
    return f"{where}: {problem.reason.strip()}"
