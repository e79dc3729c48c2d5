"""An Engine on a HostDevice, computed by ONNX Runtime, and small graphs for it to run."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segpipe.contract.schema import METADATA_KEY, Contract
from segpipe.errors import BackendError
from segpipe.runtime.backends.onnxruntime_cuda import OrtContext, OrtEngine
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from tests.host_device import HostDevice

IMAGE = {"kernels.ptx": b"the kernels of a HostDevice are a library"}
_TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}


class HostEngine:
    """ONNX Runtime on the CPU whose work waits on the device's streams."""

    def __init__(self, device: HostDevice, graph: bytes, contract: Contract, largest_batch: int = 4) -> None:
        self.device = device
        self.inner = OrtEngine(graph, contract, "cpu", 0)
        self.input_dtype, self.output_dtype = self.inner.input_dtype, self.inner.output_dtype
        smallest = self.inner.batches[0]
        self.batches = (smallest, max(smallest, largest_batch))
        self.refuses_capture = False
        self.contexts = 0
        self.runs: list[tuple[int, ...]] = []

    def context(self) -> "HostContext":
        """A new user."""
        self.contexts += 1
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
        self._shape: tuple[int, ...] = ()

    def set_shape(self, shape: tuple[int, ...], stream: int) -> tuple[int, ...]:
        """As ONNX Runtime."""
        self._shape = shape
        return self._inner.set_shape(shape, stream)

    def is_capturable(self, stream: int) -> bool:
        """Unlike ONNX Runtime: this is what TensorRT does."""
        return True

    def enqueue(self, source: int, target: int, stream: int) -> None:
        """Later."""
        engine, shape = self._engine, self._shape
        if engine.refuses_capture and engine.device.is_capturing(stream):
            raise BackendError("the engine refused to be enqueued")

        def work() -> None:
            engine.runs.append(shape)
            assert shape == self._shape, "a graph was replayed after its context took another shape"
            self._inner.enqueue(source, target, stream)

        engine.device.put(stream, work)


def host_backend(contract: Contract, graph: bytes, device: HostDevice | None = None, lanes: int = 4) -> GpuBackend:
    """The GPU frame path on host memory."""
    device = device or HostDevice()
    engine = HostEngine(device, graph, contract)
    with device.current():
        return GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), lanes)


def conv_graph(contract: Contract, dtype: str = "float32", seed: int = 0, batch: int | str = "batch") -> bytes:
    """One strided convolution as a network, in the contract's layouts, with the contract inside."""
    rng = np.random.default_rng(seed)
    stride, channels = contract.output_stride, contract.score_channels
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
    nodes.append(helper.make_node("Cast", [name], [contract.output_name], to=_TYPES[dtype]))
    free = [batch, None, None, None]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info(contract.input_name, _TYPES[contract.input_dtype], free)],
        [helper.make_tensor_value_info(contract.output_name, _TYPES[dtype], free)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: contract.to_json()})
    onnx.checker.check_model(model)
    return model.SerializeToString()
