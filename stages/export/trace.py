"""PyTorch's exporter: a network in evaluation mode -> an FP32 graph with the contract's names and dynamic axes."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from segpipe.contract.schema import FrameContract, SemanticContract
from segpipe.errors import ExportError
from stages.export.interrupts import telling_interrupts
from stages.graphs.reading import refuse_too_large

_MAX_BATCH = 1024  # bound of the symbolic batch; nothing is allocated for it


def trace(network: nn.Module, contract: FrameContract, opset: int) -> onnx.ModelProto:
    """Export; batch norms are folded and constants computed by the exporter's own optimiser."""
    weights = (*network.parameters(), *network.buffers())
    refuse_too_large(sum(tensor.numel() * tensor.element_size() for tensor in weights), "the network")
    example = _example(contract)
    if isinstance(contract, SemanticContract):
        _check_stride(network, example, contract)
    sides = {2: "height", 3: "width"} if contract.network_size is None else {}
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1, max=_MAX_BATCH)}
    dynamic |= {axis: contract.size_multiple * torch.export.Dim(f"{name}_steps") for axis, name in sides.items()}
    with _quiet_exporter(), telling_interrupts():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=(dynamic,),
                input_names=[contract.input_name],
                output_names=[*contract.output_names],
                opset_version=opset,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise _explained(error, contract) from error
    if program is None:
        raise ExportError("PyTorch's exporter gave no graph", hint="export with a newer PyTorch")
    model = program.model_proto
    _name_axes(model, contract)
    _refuse_fixed_axes(model, tuple(dynamic))
    return model


def _example(contract: FrameContract) -> Tensor:
    """A batch of two: with one, the exporter would fix the batch."""
    height, width = contract.network_size or (8 * contract.size_multiple, 16 * contract.size_multiple)
    return torch.zeros(2, contract.channels, height, width)


def _check_stride(network: nn.Module, example: Tensor, contract: SemanticContract) -> None:
    with torch.inference_mode():
        scores = network(example)
    expected = (contract.score_channels, *(side // contract.output_stride for side in example.shape[2:]))
    if tuple(scores.shape[1:]) != expected:
        raise ExportError(
            f"the network gives {tuple(scores.shape[1:])} for {tuple(example.shape[1:])}, "
            f"its stride promises {expected}",
            hint="set the network's `stride` attribute to what it really is",
        )


def _explained(error: Exception, contract: FrameContract) -> ExportError:
    """The exporter's report as its first telling line, and what to try."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    message = f"PyTorch cannot export the network: {type(cause).__name__}: {(lines or ['no reason given'])[0]}"
    if contract.network_size is None:
        return ExportError(message, hint="give [input] a height and width if the network cannot take every size")
    return ExportError(message, hint="replace the operator named here, or set another export.opset")


def _name_axes(model: onnx.ModelProto, contract: FrameContract) -> None:
    """Plain names for the dynamic axes: an exporter's expressions of symbols mean nothing to readers."""
    names = ["batch", None, "height", "width"]
    for value in model.graph.input:
        for name, side in zip(names, value.type.tensor_type.shape.dim, strict=True):
            if name and side.HasField("dim_param"):
                side.dim_param = name
    del model.graph.value_info[:]
    for value in model.graph.output:
        for name, side in zip(names, value.type.tensor_type.shape.dim, strict=False):
            if name and side.HasField("dim_param"):
                as_input = name == "batch" or getattr(contract, "output_stride", 0) == 1
                side.dim_param = name if as_input else f"{name}_out"


def _refuse_fixed_axes(model: onnx.ModelProto, dynamic: tuple[int, ...]) -> None:
    """The exporter fixes an axis where the network's code depends on it."""
    sides = model.graph.input[0].type.tensor_type.shape.dim
    fixed = {("batch", "channels", "height", "width")[axis]: sides[axis].dim_value
             for axis in dynamic if sides[axis].HasField("dim_value")}  # fmt: skip
    if fixed:
        told = ", ".join(f"{name} at {size}" for name, size in fixed.items())
        raise ExportError(f"PyTorch fixed the graph's {told}", hint="let the network take sizes from its tensors")


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
