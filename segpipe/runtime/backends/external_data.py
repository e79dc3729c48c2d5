"""Whether ONNX bytes take tensors from other files, which no hash covers. Reads the wire format, without onnx."""

from collections.abc import Iterator

from segpipe.errors import BackendError

_DATA_LOCATION, _NAME = 14, 8  # fields of TensorProto
_MAX_KEY = 1 << 32  # readers keep 32 bits of a longer one, and would find another field there
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types; groups have none in ONNX

_HOLDING_TENSORS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Message -> the fields through which tensors are reached, and what they hold."""


def refuse_external_data(artifact: bytes) -> None:
    """Refuse a graph with a tensor, at any depth, whose values are not in these bytes."""
    waiting = [("model", 0, len(artifact))]
    while waiting:
        kind, start, end = waiting.pop()
        inside = _HOLDING_TENSORS[kind]
        for number, wire, value, begin in _fields(artifact, start, end):
            if wire == _LENGTH and number in inside:
                waiting.append((inside[number], begin, begin + value))
            elif kind == "tensor" and wire == _VARINT and number == _DATA_LOCATION and value != 0:
                raise BackendError(
                    f"the model may not be loaded: tensor '{_name(artifact, start, end)}' has its values in "
                    "another file, which nothing has checked",
                    hint="put all weights into the ONNX file: `segpipe import` and `segpipe export` do",
                )


def _name(artifact: bytes, start: int, end: int) -> str:
    names = [
        artifact[begin : begin + value]
        for number, wire, value, begin in _fields(artifact, start, end)
        if (number, wire) == (_NAME, _LENGTH)
    ]
    return names[-1].decode(errors="replace") if names else ""


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Of one message: field number, wire type, the number or length, and where what is counted begins."""
    while at < end:
        key, at = _varint(data, at, end)
        wire, value = key & 7, 0
        if wire in {_VARINT, _LENGTH}:
            value, at = _varint(data, at, end)
        yield key >> 3, wire, value, at
        at += {_VARINT: 0, _EIGHT_BYTES: 8, _LENGTH: value, _FOUR_BYTES: 4}.get(wire, end)
        if at > end or key >= _MAX_KEY:
            raise _not_onnx()


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value, shift = 0, 0
    while at < end and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _not_onnx()


def _not_onnx() -> BackendError:
    return BackendError("cannot load the model: these bytes are no ONNX", hint="export it again")
