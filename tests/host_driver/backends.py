"""GPU backends on the driver of host memory: a network by ONNX Runtime, or one that only copies."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from segpipe.contract.schema import Contract
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.engine import Profile, Shape
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.segmenter import Segmenter
from tests.host_driver.driver import Queue
from tests.host_engine import IMAGE, HostEngine, any_size


class Computed:
    """A backend, and the engine in it."""

    def __init__(
        self,
        device: Device,
        contract: Contract,
        graph: bytes,
        profiles: Sequence[Profile] | None = None,
        lanes: int = 4,
    ) -> None:
        self.queue = Queue()
        self.engine = HostEngine(self.queue, graph, contract, profiles)
        self.backend = backend_of(device, contract, self.engine, lanes)
        self.segmenter = Segmenter(self.backend, contract, [(0, 0, 0)] * len(contract.classes))

    def __enter__(self) -> "Computed":
        return self

    def __exit__(self, *exception: object) -> None:
        self.backend.close()
        assert self.queue.errors == []


class Identity:
    """A network whose scores are its input: nothing but the driver and our Python takes time."""

    input_dtype = "float32"

    def __init__(self, device: Device) -> None:
        self.device = device
        self.output_dtypes = {"logits": "float32"}
        self.profiles = any_size((1, 4))

    def context(self) -> "IdentityContext":
        """A new user."""
        return IdentityContext(self.device)

    def describe(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def close(self) -> None:
        """Nothing to free."""


class IdentityContext:
    """One shape at a time."""

    scratch_bytes = 0

    def __init__(self, device: Device) -> None:
        self._device = device
        self._bytes = 0

    def set_shape(self, shape: Shape, stream: int) -> dict[str, Shape]:
        """The same."""
        self._bytes = prod(shape) * 4
        return {"logits": shape}

    def is_capturable(self, stream: int) -> bool:
        """A copy is."""
        return True

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """On the stream."""
        self._device.copy(targets["logits"], source, self._bytes, stream)


def backend_of(device: Device, contract: Contract, engine: HostEngine | Identity, lanes: int = 4) -> GpuBackend:
    """The GPU frame path around an engine."""
    with device.current():
        return GpuBackend("host", device, Parts(engine, contract, Kernels(device, IMAGE)), lanes)
