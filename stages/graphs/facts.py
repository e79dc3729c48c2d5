"""What an ONNX file tells of itself before anything is known of it: names, shapes, metadata, what it went through last.

Light: no onnx here, the file is parsed apart.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stages.graphs.apart import ChildLimits, call_apart

if TYPE_CHECKING:
    import onnx

_CPU_S, _WALL_S, _BYTES = 120, 900, 2 << 30
_COPIES = 4  # of the file, at the most
_SHOWN, _LONGEST = 64, 100_000  # tensors, and characters of a metadata value: what exporters write is far less


@dataclass(frozen=True)
class Tensor:
    """An input or output."""

    name: str
    is_float: bool
    sides: tuple[int | None, ...]
    """None where it is dynamic."""
    last_operator: str = ""
    """Of an output: what computed its numbers."""


@dataclass(frozen=True)
class Facts:
    """Of one file."""

    producer: str
    metadata: dict[str, str]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def facts_apart(model: Path) -> Facts:
    """Of a file that may be anything."""
    size_bytes = model.stat().st_size if model.is_file() else 0
    limits = ChildLimits(_CPU_S, _WALL_S, _BYTES + _COPIES * size_bytes)
    told = json.loads(call_apart(_told, str(model), limits, model=str(model)))
    both = {key: tuple(Tensor(**{**one, "sides": tuple(one["sides"])}) for one in told[key]) for key in _BOTH}
    return Facts(told["producer"], told["metadata"], **both)


_BOTH = ("inputs", "outputs")


def _told(model: str) -> bytes:
    """The child's part."""
    from stages.graphs.reading import parse

    return json.dumps(asdict(facts_of(parse(Path(model))))).encode()


def facts_of(model: "onnx.ModelProto") -> Facts:
    """Of a graph in memory."""
    from stages.graphs.last_activation import last_maker

    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    return Facts(
        model.producer_name,
        {entry.key: entry.value[:_LONGEST] for entry in model.metadata_props[:_SHOWN]},
        tuple(_tensor(value) for value in inputs[:_SHOWN]),
        tuple(_tensor(value, last_maker(graph, value.name)) for value in graph.output[:_SHOWN]),
    )


def _tensor(value: "onnx.ValueInfoProto", operator: str = "") -> Tensor:
    from stages.graphs.types import dimensions, is_any_float

    return Tensor(value.name, is_any_float(value), tuple(dimensions(value)), operator)
