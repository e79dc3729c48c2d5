"""An Engine on a HostDevice, computed by ONNX Runtime, and small graphs for it to run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segpipe.contract.schema import METADATA_KEY, Contract, FrameContract
from segpipe.errors import BackendError
from segpipe.runtime.backends.onnxruntime_cuda import OrtContext, OrtEngine
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import cuda_error
from segpipe.runtime.cuda.engine import Profile, Shape
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.trt.building import ShapeRange
from tests.host_device import HostDevice

IMAGE = {"kernels.ptx": b"the kernels of a HostDevice are a library"}
_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
}


_ANY_SIDE = 1 << 20


class Streams(Protocol):
    """Where the engine's work waits: a HostDevice, or a driver's streams."""

    def put(self, stream: int, work: Callable[[], object]) -> None: ...
    def is_capturing(self, stream: int) -> bool: ...


def any_size(*batches: tuple[int, int]) -> list[Profile]:
    """A profile for each range of batches, for frames of any size."""
    sides = (_ANY_SIDE,) * 3
    return [Profile((low, 1, 1, 1), (high, *sides)) for low, high in batches]


def profiles_of(ranges: Sequence[ShapeRange]) -> list[Profile]:
    """What an engine built for these ranges takes."""
    return [Profile(found.smallest, found.largest) for found in ranges]


class HostEngine:
    """ONNX Runtime on the CPU whose work waits on a device's streams."""

    def __init__(
        self, streams: Streams, graph: bytes, contract: FrameContract, profiles: Sequence[Profile] | None = None
    ) -> None:
        self.streams = streams
        self.inner = OrtEngine(graph, contract, "cpu", 0)
        self.input_dtype, self.output_dtypes = self.inner.input_dtype, self.inner.output_dtypes
        smallest, largest = self.inner.profiles[0].smallest[0], self.inner.profiles[0].largest[0]
        self.profiles = profiles or any_size((smallest, max(smallest, min(largest, 4))))
        self.refuses_capture = False
        self.contexts_left = 1 << 30
        """How many more of them memory allows."""
        self.scratch_bytes = 0
        self.when_enqueued: Callable[[], object] = lambda: None
        self.contexts = 0
        self.runs: list[Shape] = []
        self.scratches: set[int] = set()

    def context(self) -> "HostContext":
        """A new user."""
        if self.contexts_left < 1:
            raise cuda_error("making an execution context", "CUDA_ERROR_OUT_OF_MEMORY")
        self.contexts += 1
        self.contexts_left -= 1
        return HostContext(self)

    def describe(self) -> dict[str, Any]:
        """As ONNX Runtime."""
        return self.inner.describe()

    def close(self) -> None:
        """As ONNX Runtime."""
        self.inner.close()


class HostContext:
    """One shape at a time."""

    def __init__(self, engine: HostEngine) -> None:
        self._engine = engine
        self._inner = OrtContext(engine.inner)
        self._shape: Shape = ()
        self.scratch_bytes = engine.scratch_bytes

    def __del__(self) -> None:
        self._engine.contexts_left += 1

    def set_shape(self, shape: Shape, stream: int) -> Mapping[str, Shape]:
        """As ONNX Runtime."""
        self._shape = shape
        return self._inner.set_shape(shape, stream)

    def is_capturable(self, stream: int) -> bool:
        """Unlike ONNX Runtime: this is what TensorRT does."""
        return True

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Later."""
        engine, shape = self._engine, self._shape
        if engine.refuses_capture and engine.streams.is_capturing(stream):
            raise BackendError("the engine refused to be enqueued")
        engine.scratches.add(scratch)
        engine.when_enqueued()

        def work() -> None:
            engine.runs.append(shape)
            assert shape == self._shape, "a graph was replayed after its context took another shape"
            self._inner.enqueue(source, targets, scratch, stream)

        engine.streams.put(stream, work)


def host_backend(contract: FrameContract, graph: bytes, device: HostDevice | None = None, lanes: int = 4) -> GpuBackend:
    """The GPU frame path on host memory."""
    device = device or HostDevice()
    engine = HostEngine(device, graph, contract)
    with device.current():
        return GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), lanes)


def conv_graph(contract: Contract, dtype: str = "float32", seed: int = 0, batch: int | str = "batch") -> bytes:
    """One strided convolution as a network, in the contract's layouts, with the contract inside.

    Under a contract for labels it answers the winners.
    """
    rng = np.random.default_rng(seed)
    stride, labels = contract.output_stride, contract.output_kind == "labels"
    channels = len(contract.classes) if labels else contract.score_channels
    weight = rng.normal(size=(channels, contract.channels, stride, stride)).astype(np.float32)
    nodes, name = [], contract.input_name
    if contract.input_layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [name], ["nchw"], perm=(0, 3, 1, 2)))
        name = "nchw"
    nodes.append(helper.make_node("Cast", [name], ["wide"], to=TensorProto.FLOAT))
    nodes.append(helper.make_node("Conv", ["wide", "weight"], ["scores"], strides=(stride, stride)))
    name = "scores"
    if contract.output_layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [name], ["scores_nhwc"], perm=(0, 2, 3, 1)))
        name = "scores_nhwc"
    if labels:
        nodes.append(helper.make_node("ArgMax", [name], ["labels"], axis=1, keepdims=0))
        name, dtype = "labels", "int32"
    nodes.append(helper.make_node("Cast", [name], [contract.output_name], to=_TYPES[dtype]))
    free = [batch, None, None, None]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info(contract.input_name, _TYPES[contract.input_dtype], free)],
        [helper.make_tensor_value_info(contract.output_name, _TYPES[dtype], free[:3] if labels else free)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model)
    return model.SerializeToString()
