"""A trained run's INT8 graphs, made here as export makes them and without training anything; and ways to break them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, numpy_helper

from segpipe.artifacts import FP16_GRAPH, FP32_GRAPH, INT8_CPU_GRAPH
from segpipe.contract.schema import Contract
from segpipe.rundir.directory import RunDirectory
from segpipe.runtime.opening import run_contract
from stages.config.root import Config
from stages.export.calibration import Frames, frames_for
from stages.export.int8 import Int8, int8_files
from stages.export.int8_search import Graphs
from stages.graphs.calibrating import Span, spans
from stages.graphs.quantising_cpu import quantised_for_cpu
from stages.graphs.reading import to_bytes
from tests.trained import trained_config


@dataclass(frozen=True)
class Narrow:
    """A run's graphs, its calibration frames, and what INT8 makes of them."""

    graphs: Graphs
    config: Config
    frames: Frames
    made: Int8
    contract: Contract

    @property
    def cpu(self) -> bytes:
        """model.int8.cpu.onnx."""
        return self.made.files[INT8_CPU_GRAPH]

    def again(self, before: bytes | None = None, **settings: object) -> Int8:
        """The same once more."""
        compress = self.config.compress.model_copy(update=settings)
        return int8_files(self.graphs, self.config.model_copy(update={"compress": compress}), self.frames, before)


def narrow(run: Path, place: Path) -> Narrow:
    """Of a trained run, which is not written to."""
    rundir = RunDirectory(run)
    full, half = (onnx.load_model_from_string(rundir.artifact_bytes("export", n)) for n in (FP32_GRAPH, FP16_GRAPH))
    config = trained_config(place, 'compress.int8="ptq"', "compress.calibration_images=8")
    contract = run_contract(rundir)
    graphs, frames = Graphs(full, half, contract.input_name), frames_for(config, place, contract, True)
    return Narrow(graphs, config, frames, int8_files(graphs, config, frames, None), contract)


Numbers = Callable[[np.ndarray], np.ndarray]


class Broken:
    """A quantised graph in which single numbers are changed."""

    def __init__(self, graph: bytes) -> None:
        self._model = onnx.load_model_from_string(graph)
        self._made = {name: node for node in self._model.graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in self._model.graph.initializer}

    def layer(self, node: str) -> NodeProto:
        return next(entry for entry in self._model.graph.node if entry.name == node)

    def ends(self, node: str, slot: int) -> tuple[str, str, str]:
        """The tensors behind an input's DQ: its numbers, scale and zero point."""
        first, scale, zero = self._made[self.layer(node).input[slot]].input
        return first, scale, zero

    def change(self, name: str, change: Numbers) -> None:
        tensor = self._stored[name]
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(values), values.dtype), name))

    def values(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._stored[name])

    def exchange(self, one: str, other: str) -> None:
        values = self.values(one).copy(), self.values(other).copy()
        self.change(one, lambda _: values[1])
        self.change(other, lambda _: values[0])

    def bytes(self) -> bytes:
        return to_bytes(self._model)


def with_dead_channel(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The same function with a depthwise convolution behind its first ReLU: one more channel, always 0, has a weight a
    thousand times the others', as folded batch norms leave it."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    nodes = list(whole.graph.node)
    relu = next(node for node in nodes if node.op_type == "Relu")
    first = next(node for node in nodes if relu.input[0] in node.output)
    readers = [node for node in nodes if relu.output[0] in node.input]
    stored = {tensor.name: tensor for tensor in whole.graph.initializer}

    def widened(name: str, axis: int) -> None:
        values = numpy_helper.to_array(stored[name])
        pads = [(0, int(index == axis)) for index in range(values.ndim)]
        stored[name].CopyFrom(numpy_helper.from_array(np.pad(values, pads), name))

    for name in first.input[1:]:
        widened(name, 0)
    for reader in readers:
        widened(reader.input[1], 1)
        reader.input[0] = "deep"
    channels = numpy_helper.to_array(stored[first.input[1]]).shape[0]
    weights = np.ones((channels, 1, 1, 1), np.float32)
    weights[-1] = 1000
    whole.graph.initializer.append(numpy_helper.from_array(weights, "deep.weight"))
    deep = onnx.helper.make_node("Conv", [relu.output[0], "deep.weight"], ["deep"], name="deep", group=channels)
    whole.graph.node.insert(nodes.index(relu) + 1, deep)
    return whole, "deep"


def ranges_of(model: onnx.ModelProto, made: Narrow) -> dict[str, Span]:
    return spans(model, made.frames.tensors(), made.graphs.input_name, "minmax")


def calibrated_on_black(made: Narrow, node: str) -> bytes:
    """One layer's range is that of a black frame."""
    source = next(entry for entry in made.graphs.full.graph.node if entry.name == node).input[0]
    black = np.full_like(next(made.frames.tensors()), -1.5)
    black[0, 0, 0, 0] = -1.4  # or it is told that nothing varies
    seen = spans(made.graphs.full, [black], made.graphs.input_name, "minmax")
    ranges = ranges_of(made.graphs.full, made) | {source: seen[source]}
    return to_bytes(quantised_for_cpu(made.graphs.full, ranges, ()))
