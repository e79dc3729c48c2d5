"""A task that a test brings along: how bright a frame is, in two numbers a frame. No kernels of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from segpipe.contract.schema import CONTRACTS, METADATA_KEY, FrameContract, Placement
from segpipe.errors import InputError
from segpipe.runtime.request import Outputs
from segpipe.tasks import TASKS


class BrightnessContract(FrameContract):
    """Two outputs by name: one number a frame, and one a channel."""

    task: ClassVar[str] = "brightness"
    mean_name: str = "mean"
    peak_name: str = "peak"


CONTRACT = BrightnessContract(fit="pad", size_multiple=8, mean=(0.0,) * 3, std=(1.0,) * 3)


@dataclass(frozen=True)
class Brightness:
    """What people get of a frame."""

    mean: float
    peaks: NDArray[Any]
    size: tuple[int, int]


class BrightnessMeter:
    """How far answers are from the truth, at worst."""

    def __init__(self) -> None:
        self._worst = 0.0

    def add(self, truth: float, answer: float) -> None:
        """One frame."""
        self._worst = max(self._worst, abs(truth - answer))

    def figures(self) -> float:
        """The greatest error."""
        return self._worst


class BrightnessTask:
    """The light half."""

    def __init__(self, contract: BrightnessContract) -> None:
        self.outputs = (contract.mean_name, contract.peak_name)

    def require(self, asked: Outputs) -> None:
        """Nothing but numbers."""
        if asked.scores or asked.confidence:
            raise InputError("brightness has no scores", hint="ask for nothing more")

    def decode(self, tensors: Mapping[str, NDArray[Any]], placement: Placement, asked: Outputs) -> Brightness:
        """Numbers as they are."""
        mean, peaks = (tensors[name] for name in self.outputs)
        return Brightness(float(mean), np.array(peaks), placement.source)

    def plain(self, answer: Brightness) -> float:
        """The mean."""
        return answer.mean

    def result(self, answer: Brightness, palette: Any, order: Any) -> Brightness:
        """As it is."""
        return answer

    def tiled(self, backend: Any, frame: NDArray[Any], tiling: Any, progress: Any) -> Brightness:
        """Two tiles are enough to show that they are combined here."""
        halves = backend.infer(np.array_split(frame, 2), Outputs())
        peaks = np.max([half.peaks for half in halves], axis=0)
        return Brightness(float(np.mean([half.mean for half in halves])), peaks, frame.shape[:2])

    def on_device(self, job: Any, placement: Placement, tensors: Any) -> None:
        """No kernels."""

    def meter(self) -> BrightnessMeter:
        """Of errors."""
        return BrightnessMeter()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row in each table."""
    monkeypatch.setitem(CONTRACTS, BrightnessContract.task, BrightnessContract)
    monkeypatch.setitem(TASKS, BrightnessContract.task, f"{__name__}:BrightnessTask")


def graph(dtype: str = "FLOAT") -> bytes:
    """Mean and maximum of the network's input, as a network."""
    kind, free = TensorProto.DataType.Value(dtype), ["batch", None, None, None]
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["exact mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMax", ["image"], ["exact peak"], axes=[2, 3], keepdims=0),
        helper.make_node("Cast", ["exact mean"], ["mean"], to=kind),
        helper.make_node("Cast", ["exact peak"], ["peak"], to=kind),
    ]
    made = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, free)],
        [
            helper.make_tensor_value_info("mean", kind, ["batch"]),
            helper.make_tensor_value_info("peak", kind, ["batch", 3]),
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: CONTRACT.to_json()})
    onnx.checker.check_model(model)
    return model.SerializeToString()
