"""What an imported graph really answers, compared with its contract: declared shapes may be symbolic or wrong."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Layout
from segpipe.errors import ContractError

AXES: dict[Layout, tuple[int, int, int]] = {"nchw": (1, 2, 3), "nhwc": (3, 1, 2)}  # channels, height, width
_SLACK_PX = 1  # of the answer: networks round up, round down, or lose a border to an unpadded layer
_PROBABILITY_SLACK = 1e-3  # FP16 softmax


def refuse_other_answer(asked: NDArray[Any], answer: NDArray[Any], contract: Contract, source: str) -> None:
    """ContractError with what to write where the answer to one input tensor is not what the contract says."""
    subject = f"{source}: output '{contract.output_name}' is {_shape(answer)} for an input of {_shape(asked)}"
    sides = _label_sides(asked, answer, contract, subject)
    if sides is None:
        sides = _score_sides(asked, answer, contract, subject)
    _refuse_other_stride(asked, sides, contract, subject)
    _refuse_no_probabilities(answer, contract, source)


def _label_sides(asked: NDArray[Any], answer: NDArray[Any], contract: Contract, subject: str) -> tuple[int, int] | None:
    """Height and width of labels; None where the contract says scores."""
    if contract.output_kind != "labels":
        return None
    shape = answer.shape
    if answer.ndim == 4 and shape[0] == len(asked):
        channel, height, width = AXES[contract.output_layout]
        if shape[channel] != 1 and 1 in (shape[1], shape[3]):
            channel, height, width = AXES["nhwc" if channel == 1 else "nchw"]
        if shape[channel] == 1:
            return shape[height], shape[width]
        hint = "set output_kind = 'logits' or 'probabilities' for scores, or end the graph in an argmax over them"
        raise ContractError(f"{subject}: {shape[channel]} channels, labels have one", hint=hint)
    if answer.ndim == 3 and shape[0] == len(asked):
        return shape[1], shape[2]
    raise ContractError(
        f"{subject}, labels are NxHxW, Nx1xHxW or NxHxWx1 with N = {len(asked)}",
        hint="give the graph's output a batch axis in front (ONNX's Unsqueeze, PyTorch's unsqueeze(0))",
    )


def _score_sides(asked: NDArray[Any], answer: NDArray[Any], contract: Contract, subject: str) -> tuple[int, int]:
    """Height and width of scores with the right batch and channels."""
    if answer.ndim != 4 or len(answer) != len(asked):
        raise ContractError(
            f"{subject}, {contract.output_kind} have four dimensions and the input's batch",
            hint="set output_kind = 'labels' for class numbers, or name another tensor as output_name",
        )
    channel, height, width = AXES[contract.output_layout]
    found = answer.shape[channel]
    if found != contract.score_channels:
        raise ContractError(
            f"{subject}: {found} channels in layout {contract.output_layout}, {contract.output_kind} of "
            f"{len(contract.classes)} classes need {contract.score_channels}",
            hint=_channels_hint(found, answer, contract),
        )
    return answer.shape[height], answer.shape[width]


def _channels_hint(found: int, answer: NDArray[Any], contract: Contract) -> str:
    other: Layout = "nhwc" if contract.output_layout == "nchw" else "nchw"
    if answer.shape[AXES[other][0]] == contract.score_channels:
        return f"set output_layout = '{other}'"
    if contract.output_kind == "sigmoid" and found == 2:
        return "set output_kind = 'logits': sigmoid is for one channel, two are a softmax's"
    if found == 1 and len(contract.classes) == 2:
        return "set output_kind = 'sigmoid' for raw scores, or 'probabilities' and output_channels = 1"
    if found == 1:
        return "set output_kind = 'labels' if these are class numbers"
    return f"name {found} classes in the contract, background included, or name another tensor as output_name"


def _refuse_other_stride(asked: NDArray[Any], sides: tuple[int, int], contract: Contract, subject: str) -> None:
    _, *axes = AXES[contract.input_layout]
    inputs = [asked.shape[axis] for axis in axes]
    if all(_strides(wanted, side, contract.output_stride) for wanted, side in zip(inputs, sides, strict=True)):
        return
    fitting = [
        stride
        for stride in dict.fromkeys(round(a / max(b, 1)) for a, b in zip(inputs, sides, strict=True))
        if stride and all(_strides(wanted, side, stride) for wanted, side in zip(inputs, sides, strict=True))
    ]
    hint = (
        f"set output_stride = {fitting[0]}"
        if fitting
        else "its height and width must be the input's, divided by one whole number; or name another output_name"
    )
    raise ContractError(f"{subject}, which is not output_stride {contract.output_stride}", hint=hint)


def _strides(asked: int, answered: int, stride: int) -> bool:
    """Is this the answer's side at that stride?"""
    if answered in {asked // stride, -(-asked // stride)}:
        return answered > 0
    return answered > 0 and round(asked / answered) == stride and abs(answered - asked / stride) <= _SLACK_PX


def _refuse_no_probabilities(answer: NDArray[Any], contract: Contract, source: str) -> None:
    if contract.output_kind != "probabilities" or not np.isfinite(answer).all():
        return
    low, high = float(answer.min(initial=0)), float(answer.max(initial=0))
    if low < -_PROBABILITY_SLACK or high > 1 + _PROBABILITY_SLACK:
        raise ContractError(
            f"{source}: output '{contract.output_name}' holds values from {low:.3g} to {high:.3g}, "
            "probabilities lie between 0 and 1",
            hint="set output_kind = 'logits'",
        )


def remark_on(answer: NDArray[Any], contract: Contract) -> str:
    """What looks wrong with the values and need not be; empty where nothing does."""
    if contract.output_kind not in {"sigmoid", "logits"} or not np.isfinite(answer).all() or not answer.size:
        return ""
    low, high = float(answer.min()), float(answer.max())
    shares = answer.astype(np.float64).sum(AXES[contract.output_layout][0])
    if low < 0 or high > 1 or not (contract.score_channels == 1 or np.abs(shares - 1).max() < _PROBABILITY_SLACK):
        return ""
    channels = " and output_channels = 1" if contract.score_channels == 1 else ""
    return (
        f"output '{contract.output_name}' holds values from {low:.3g} to {high:.3g}, as probabilities do, and "
        f"output_kind '{contract.output_kind}' wants raw scores: if they are probabilities, set "
        f"output_kind = 'probabilities'{channels} in the contract and import again"
    )


def _shape(tensor: NDArray[Any]) -> str:
    return "x".join(map(str, tensor.shape)) or "a single number"
