"""A stranger's ONNX file -> the bytes of a checked graph that fits a contract, made in a process of its own."""

from pathlib import Path

from segpipe.contract import Contract
from stages.graphs.apart import Limits, allow_memory, call_apart

_CPU_S, _WALL_S = 120, 900  # 2 GB take some 20 s of work; the rest is for slow disks and busy machines
_ENOUGH_BYTES = 2 << 30  # for Python, onnx and a graph without weights
_COPIES = 8  # of the weights, at the most: the file, the message, the checker's and the inliner's, our own bytes


def adopted_apart(model: Path, contract: Contract) -> bytes:
    """Parse, check and adopt in a child."""
    size_bytes = model.stat().st_size if model.is_file() else 0
    limits = Limits(_CPU_S, _WALL_S, _memory_for(size_bytes))
    return call_apart(_adopted, str(model), limits, model=str(model), contract=contract.to_json())


def _adopted(model: str, contract: str) -> bytes:
    """The child's part."""
    from stages.graphs.adopting import adopt
    from stages.graphs.reading import complete, parse, to_bytes, weights_bytes

    path = Path(model)
    graph = parse(path)
    allow_memory(_memory_for(weights_bytes(graph)))  # by now they are known not to be beyond all measure
    return to_bytes(adopt(complete(graph, path), Contract.from_json(contract, model), model))


def _memory_for(weights_bytes: int) -> int:
    return _ENOUGH_BYTES + _COPIES * weights_bytes
