"""For tests of applications that embed the runtime: a tiny validated run directory, and frames with known masks.

The network is one convolution that names the palette colour nearest to each block of pixels. It needs ONNX Runtime and
nothing else: no GPU, no training, no onnx package.
"""

import json
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe import verdict
from segpipe.artifacts import ON_CPU
from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.draw import colourise
from segpipe.errors import InputError
from segpipe.processor import CPU
from segpipe.rundir.directory import RunDirectory

STRIDE = 4
PALETTE = ((20, 20, 20), (230, 40, 40), (40, 200, 60), (50, 80, 240))
CONTRACT = Contract(classes=("dark", "red", "green", "blue"), fit="pad", size_multiple=STRIDE, output_stride=STRIDE)

_GAIN = 10.0  # of the scores: how sure the network is


def make_run(path: Path, contract: Contract = CONTRACT, *, status: str = "passed") -> Path:
    """A run directory that `Segmenter.open` takes, with a verdict of this status. Returns `path`."""
    run = RunDirectory.create(path)
    graph = make_onnx(contract)
    with run.step(ON_CPU.stage, {"testing": contract.sha256}, {}) as step:
        if step.stale:
            step.path(ON_CPU.file).write_bytes(graph)
            step.path("contract.json").write_text(contract.to_json())
            step.path("palette.json").write_text(json.dumps(palette_of(contract)))
            step.contract_sha256 = contract.sha256
    model = run.artifact(ON_CPU.stage, ON_CPU.file)
    judged = {
        "artifact": ON_CPU.path,
        "artifact_sha256": run.recorded_sha256(model),
        "backend": ON_CPU.name,
        "device": CPU,
        "contract_sha256": contract.sha256,
        "status": status,
    }
    with run.step(verdict.STAGE, [model], {"status": status}) as step:
        if step.stale:
            step.path(verdict.FILE_NAME).write_text(json.dumps([judged]))
    return path


def make_frame(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A frame of coloured blocks for `CONTRACT`, and the mask whose colours it shows (edges are blended there)."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, len(PALETTE), (height // 16 + 1, width // 16 + 1), np.uint8)
    mask = blocks.repeat(16, 0).repeat(16, 1)[:height, :width]
    return colourise(mask, PALETTE), mask


def palette_of(contract: Contract) -> tuple[tuple[int, int, int], ...]:
    """The colour of each class."""
    count = len(contract.classes)
    if contract.channels == len(PALETTE[0]) and count <= len(PALETTE):
        return PALETTE[:count]
    levels = np.linspace(0, 255, count).round().astype(int)
    return tuple((int(level), int(level), int(level)) for level in levels)


def weights_of(contract: Contract) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of the convolution: 2 c.p - |c|^2 is greatest for the colour c nearest to the pixel p."""
    if (contract.output_kind, contract.input_layout, contract.input_dtype) != ("logits", "nchw", "float32"):
        raise InputError("the tiny network takes float32 nchw and gives logits", hint="use another contract")
    colours = np.array(palette_of(contract), np.float64) / 255
    if contract.channels != colours.shape[1]:
        colours = colours[:, :1].repeat(contract.channels, 1)
    if contract.channel_order == "bgr":
        colours = colours[:, ::-1]
    stride, mean, std = contract.output_stride, np.array(contract.mean), np.array(contract.std)
    weight = _GAIN * 2 * (colours * std)[:, :, None, None] / stride**2 * np.ones((stride, stride))
    bias = _GAIN * (2 * colours @ mean - (colours**2).sum(1))
    return weight.astype(np.float32), bias.astype(np.float32)


def make_onnx(contract: Contract) -> bytes:
    """The network as an ONNX file with the contract inside."""
    weight, bias = weights_of(contract)
    sides: Sequence[int | str] = contract.network_size or ("height", "width")
    scores = [-(-side // contract.output_stride) if isinstance(side, int) else f"{side}_out" for side in sides]
    attributes = [_ints("kernel_shape", weight.shape[2:]), _ints("strides", weight.shape[2:])]
    node = _message(
        (1, contract.input_name), (1, "weight"), (1, "bias"), (2, contract.output_name), (4, "Conv"),
        *((5, attribute) for attribute in attributes),
    )  # fmt: skip
    graph = _message(
        (1, node),
        (2, "tiny"),
        (5, _tensor("weight", weight)),
        (5, _tensor("bias", bias)),
        (11, _value(contract.input_name, ("batch", contract.channels, *sides))),
        (12, _value(contract.output_name, ("batch", len(contract.classes), *scores))),
    )
    metadata = _message((1, METADATA_KEY), (2, contract.to_json()))
    return _message((1, 8), (7, graph), (8, _message((2, 18))), (14, metadata))  # IR version 8, opset 18


# --- the few messages of onnx.proto that one convolution needs -------------------------------------------------------


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """Protocol buffer wire format: varints and length-delimited fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(_varint(number << 3) + _varint(value))
        else:
            data = value.encode() if isinstance(value, str) else value
            parts.append(_varint(number << 3 | 2) + _varint(len(data)) + data)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    digits = []
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return struct.pack(f"{len(digits) + 1}B", *digits, value)


def _ints(name: str, values: Iterable[int]) -> bytes:
    """AttributeProto of type INTS."""
    return _message((1, name), *((8, int(value)) for value in values), (20, 7))


def _tensor(name: str, values: NDArray[Any]) -> bytes:
    """TensorProto of float32."""
    return _message(*((1, side) for side in values.shape), (2, 1), (8, name), (9, values.tobytes()))


def _value(name: str, shape: Iterable[int | str]) -> bytes:
    """ValueInfoProto of float32; a side is a number or a name."""
    sides = [(1, _message((1, side) if isinstance(side, int) else (2, side))) for side in shape]
    return _message((1, name), (2, _message((1, _message((1, 1), (2, _message(*sides)))))))
