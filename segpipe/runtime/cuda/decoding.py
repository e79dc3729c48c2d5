"""Decoding: the end of a job, from the engine's outputs on the device to answers. A task's kernels, or the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement
from segpipe.errors import InputError
from segpipe.runtime.cuda.job import GpuJob, Place, Tensors, TensorSpec, output_role
from segpipe.tasks import Task


class Decoding(Protocol):
    """One job's, worked out once. Roles name buffers: device memory, and page-locked memory that it is copied to."""

    @property
    def device_bytes(self) -> Mapping[str, int]:
        """Memory beside the engine's own."""
        ...

    @property
    def downloads(self) -> Mapping[str, TensorSpec]:
        """What comes back to the host."""
        ...

    @property
    def kept(self) -> Mapping[str, TensorSpec]:
        """What a frame's answer leaves on the device, for callers who want it there."""
        ...

    def tables(self) -> bytes:
        """What its kernels read beside the outputs, uploaded once."""
        ...

    def step(self, place: Place, tables: int) -> Callable[[], None]:
        """What puts its kernels on the stream. `tables`: the device address of its tables."""
        ...

    def answers(self, views: Mapping[str, NDArray[Any]], kept: Sequence[Mapping[str, Any]]) -> list[Any]:
        """An answer a frame, which belongs to the caller: the views are page-locked memory that the next job fills."""
        ...


def decoding_of(task: Task, job: GpuJob, placement: Placement, tensors: Tensors) -> Decoding:
    """The task's own kernels; where it has none, the outputs are downloaded and decoded on the host."""
    return task.on_device(job, placement, tensors) or _OnHost(task, job, placement, tensors)


class _OnHost:
    """No kernels: every output that the task needs comes back."""

    def __init__(self, task: Task, job: GpuJob, placement: Placement, tensors: Tensors) -> None:
        if job.outputs.on_device:
            raise InputError("this task's answers are made on the host", hint="ask for them without on_device")
        self.device_bytes: Mapping[str, int] = {}
        self.downloads = {output_role(name): tensors.outputs[name] for name in task.outputs}
        self.kept: Mapping[str, TensorSpec] = {}
        self._task, self._job, self._target = task, job, job.outputs.placed(placement)

    def tables(self) -> bytes:
        """None."""
        return b""

    def step(self, place: Place, tables: int) -> Callable[[], None]:
        """Nothing to do."""
        return lambda: None

    def answers(self, views: Mapping[str, NDArray[Any]], kept: Sequence[Mapping[str, Any]]) -> list[Any]:
        """By the light half of the task, in single precision as networks on the host answer."""
        names = self._task.outputs
        return [
            self._task.decode({name: _wide(views[output_role(name)][index]) for name in names}, self._target, asked)
            for asked in (self._job.outputs,)
            for index in range(self._job.frames)
        ]


def _wide(tensor: NDArray[Any]) -> NDArray[Any]:
    return tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
