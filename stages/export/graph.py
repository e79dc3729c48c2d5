"""The core of export: a trained network -> self-describing ONNX graphs that are checked to be the same network."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from segpipe.contract import METADATA_KEY, Contract
from segpipe.errors import ExportError
from stages import checkpoint
from stages.config import ExportConfig
from stages.export.clean import clean
from stages.half import to_half

_MAX_BATCH = 1024  # bound of the symbolic batch; nothing is allocated for it


@dataclass(frozen=True)
class Exported:
    """Files by name, ready to be written."""

    files: dict[str, bytes]
    contract_sha256: str
    figures: dict[str, Any]


def export_files(trained: bytes, config: ExportConfig) -> Exported:
    """Both graphs, with the contract inside and beside them."""
    source = checkpoint.from_bytes(trained)
    contract = source.contract
    example = _example(contract)
    _check_stride(source.network, example, contract)
    files = {"model.onnx": _graph(source.network, example, contract, config)}
    half = to_half(checkpoint.from_bytes(trained).network, config.fp32_islands)
    files["model.fp16.onnx"] = _graph(half, example, contract, config)
    figures = {
        "parameters": sum(tensor.numel() for tensor in source.network.parameters()),
        "opset": config.opset,
        "fp16_size_ratio": round(len(files["model.fp16.onnx"]) / len(files["model.onnx"]), 3),
    }
    files["contract.json"] = contract.to_json().encode()
    files["palette.json"] = json.dumps(source.palette).encode()
    return Exported(files, contract.sha256, figures)


def _example(contract: Contract) -> Tensor:
    """A batch of two: with one, the exporter would fix the batch."""
    height, width = contract.network_size or (8 * contract.size_multiple, 8 * contract.size_multiple)
    return torch.zeros(2, contract.channels, height, width)


def _check_stride(network: nn.Module, example: Tensor, contract: Contract) -> None:
    with torch.inference_mode():
        scores = network(example)
    expected = (contract.score_channels, *(side // contract.output_stride for side in example.shape[2:]))
    if tuple(scores.shape[1:]) != expected:
        raise ExportError(
            f"the network gives {tuple(scores.shape[1:])} for {tuple(example.shape[1:])}, "
            f"its stride promises {expected}",
            hint="set the network's `stride` attribute to what it really is",
        )


def _graph(network: nn.Module, example: Tensor, contract: Contract, config: ExportConfig) -> bytes:
    """Export, clean, describe, check."""
    sides = {2: "height", 3: "width"} if contract.network_size is None else {}
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)}
    dynamic |= {axis: contract.size_multiple * torch.export.Dim(f"{name}_steps") for axis, name in sides.items()}
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=(dynamic,),
            input_names=[contract.input_name],
            output_names=[contract.output_name],
            opset_version=config.opset,
            verbose=False,
        )
    if program is None:
        raise ExportError("PyTorch's exporter gave no graph", hint="export with a newer PyTorch")
    model = clean(program.model_proto)
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model, full_check=True)
    _refuse_names(model, (contract.input_name, contract.output_name))
    return model.SerializeToString(deterministic=True)


def _refuse_names(model: onnx.ModelProto, expected: Sequence[str]) -> None:
    found = [value.name for value in (*model.graph.input, *model.graph.output)]
    if found != list(expected):
        raise ExportError(f"the graph's tensors are {found}, the contract says {list(expected)}", hint="report a bug")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """The exporter talks about its own deprecations; errors pass."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
