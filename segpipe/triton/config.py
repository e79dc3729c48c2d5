"""A model's config.pbtxt: protobuf's text format, written without protobuf. Owns the fields that segpipe sets."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segpipe.contract.schema import Contract

FRAME, MASK = "frame", "mask"
"""Tensors of the model that takes frames."""
TYPES = {
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}
"""Triton's names of numpy's types."""
_HEADER = "# Written by `segpipe triton`; the contract in it is what its versions must have been exported with.\n"
_INDENT = "  "


class Word(str):
    """A value of an enum, which is written without quotes."""

    __slots__ = ()


Message = Sequence[tuple[str, "Value"]]
Value = Word | str | int | Sequence[int] | Message


@dataclass(frozen=True)
class Tensor:
    """One input or output; -1 stands for a side that follows the frame. The batch is not among the sides."""

    name: str
    dtype: str
    sides: tuple[int, ...]

    def message(self) -> Message:
        return [("name", self.name), ("data_type", Word(TYPES[self.dtype])), ("dims", self.sides)]


@dataclass(frozen=True)
class Copies:
    """How many of a model run, where, and how many requests may wait for them."""

    count: int = 1
    on_gpu: bool = False
    max_batch: int = 8
    """0: the graph's batch is fixed, and among its sides."""
    queue: int = 64

    def messages(self) -> Message:
        kind = Word("KIND_GPU" if self.on_gpu else "KIND_CPU")
        group: Message = [("instance_group", [("count", self.count), ("kind", kind)])]
        if not self.max_batch:  # Triton queues without a limit what it does not batch
            return group
        return [*group, ("dynamic_batching", [("default_queue_policy", [("max_queue_size", self.queue)])])]


@dataclass(frozen=True)
class ModelConfig:
    """What Triton is told about one model."""

    name: str
    backend: str
    """Of Triton: `python`, `onnxruntime` or `tensorrt`."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    instances: Copies
    contract: Contract
    warm_up: tuple[int, int]
    """Height and width of the first input's sides where they follow the frame."""
    parameters: tuple[tuple[str, str], ...] = ()

    def to_text(self) -> str:
        """The file, whole."""
        platform = [("platform", "tensorrt_plan")] if self.backend == "tensorrt" else []
        fields: Message = [
            ("name", self.name),
            ("backend", self.backend),
            *platform,
            ("max_batch_size", self.instances.max_batch),
            *(("input", tensor.message()) for tensor in self.inputs),
            *(("output", tensor.message()) for tensor in self.outputs),
            *self.instances.messages(),
            ("version_policy", [("latest", [("num_versions", 1)])]),
            ("model_warmup", self._warm_up()),
            *(("parameters", _parameter(key, value)) for key, value in (*_contract(self.contract), *self.parameters)),
        ]
        return _HEADER + "".join(_lines(fields, ""))

    def _warm_up(self) -> Message:
        tensor, free = self.inputs[0], iter(self.warm_up)
        sides = tuple(next(free) if side < 0 else side for side in tensor.sides)
        value: Message = [("data_type", Word(TYPES[tensor.dtype])), ("dims", sides), ("zero_data", Word("true"))]
        inputs: Message = [("key", tensor.name), ("value", value)]
        return [("name", "one"), ("batch_size", 1), ("inputs", inputs)]


def known_by(config: ModelConfig) -> tuple[str, ...]:
    """Lines by which a written config is known to be of this contract and kind."""
    contract: Message = [("string_value", config.contract.sha256)]
    backend: Message = [("backend", config.backend)]
    return (*_lines(contract, _INDENT * 2), *_lines(backend, ""))


def _contract(contract: Contract) -> Iterable[tuple[str, str]]:
    yield "contract_sha256", contract.sha256
    yield "contract", contract.to_json()
    yield "classes", json.dumps(contract.classes)


def _parameter(key: str, value: str) -> Message:
    return [("key", key), ("value", [("string_value", value)])]


def _lines(message: Message, indent: str) -> Iterable[str]:
    for name, value in message:
        if isinstance(value, (str, int)):
            yield f"{indent}{name}: {_scalar(value)}\n"
        elif value and isinstance(value[0], int):
            yield f"{indent}{name}: [{', '.join(map(str, value))}]\n"
        else:
            yield f"{indent}{name} {{\n"
            yield from _lines(value, indent + _INDENT)  # type: ignore[arg-type]  # what is left is a message
            yield f"{indent}}}\n"


def _scalar(value: str | int) -> str:
    if isinstance(value, (int, Word)):
        return str(value)
    return '"' + "".join(_escaped(byte) for byte in value.encode()) + '"'


def _escaped(byte: int) -> str:
    """Octal for all that is not plainly printable, which every reader of the format takes."""
    if byte in b'"\\':
        return f"\\{byte:c}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
