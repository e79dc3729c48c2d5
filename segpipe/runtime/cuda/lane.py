"""Lane: everything one thread needs to run frames: a stream, buffers, engine contexts, and a CUDA graph for each job.

A job's first run is not captured: it is the warm-up that the engine and the kernels' loading need. Its second run is
captured, all later ones replay. Addresses are frozen in a graph: frames are copied in, results are copied out.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any

import numpy as np

from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.arrays import DeviceArray, read_frame
from segpipe.runtime.cuda.buffers import Buffers
from segpipe.runtime.cuda.device import Device, DeviceLostError, OutOfMemoryError
from segpipe.runtime.cuda.engine import Engine, EngineContext, Shape
from segpipe.runtime.cuda.job import GpuJob, Place, Tensors, TensorSpec
from segpipe.runtime.cuda.kernels import Kernels, PackArguments
from segpipe.runtime.cuda.plan import Plan, input_shape
from segpipe.runtime.cuda.spare import Spare
from segpipe.runtime.cuda.steps import Steps
from segpipe.runtime.preprocess import normalisation
from segpipe.runtime.request import StepTimes

_CONTEXTS = 3  # input shapes a lane keeps ready
_PLANS = 16  # jobs a lane keeps ready
_AHEAD = 3  # frames that go before one whose steps are timed: while the GPU is busy with them the host gets ahead

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What all lanes of a backend share."""

    engine: Engine
    contract: FrameContract
    kernels: Kernels


@dataclass
class _Ready:
    """A job that this lane has prepared."""

    plan: Plan
    steps: Steps
    graph: int = 0
    runs: int = 0
    refusal: str = ""
    """Why this job runs without a CUDA graph."""


class Lane:
    """One thread at a time. The device's context must be current."""

    def __init__(self, device: Device, parts: Parts, spare: Spare) -> None:
        self._device, self._spare = device, spare
        self._engine, self._contract, self._kernels = parts.engine, parts.contract, parts.kernels
        self._contexts: OrderedDict[Shape, tuple[EngineContext, Mapping[str, Shape]]] = OrderedDict()
        self._ready: OrderedDict[GpuJob, _Ready] = OrderedDict()
        self._buffers = Buffers(device)
        self._constants = 0
        self.stream = device.create_stream()
        try:
            self._constants = self._upload(np.concatenate(normalisation(self._contract)).astype(np.float32).tobytes())
        except BackendError:
            self.close()
            raise

    def run(self, frames: Sequence[Any], job: GpuJob) -> list[Any]:
        """Frames of one job to answers that the caller owns. An InputError leaves the lane as it was."""
        ready = self._prepared(job)
        try:
            held = self._bring(frames, ready)
        except InputError:
            self._device.synchronize(self.stream)  # frames before the wrong one may still be read
            raise
        self._execute(ready)
        kept = self._keep_on_device(ready.plan) if job.outputs.on_device else []
        self._device.synchronize(self.stream)
        del held  # other people's frames are needed until here
        return ready.plan.decoding.answers(ready.steps.downloads, kept)

    def time_steps(self, frame: Any, job: GpuJob) -> StepTimes:
        """One frame without its graph, each step timed on the stream."""
        ready = self._prepared(job)
        self._bring([frame], ready)
        for _ in range(_AHEAD):
            self._execute(ready)
        marks: list[int] = []
        try:
            marks.append(self._device.mark(self.stream))
            for step in ready.steps.all:
                step()
                marks.append(self._device.mark(self.stream))
            self._device.synchronize(self.stream)
            upload, pre, network, post, download = starmap(self._device.milliseconds, pairwise(marks))
        finally:
            for mark in marks:
                with contextlib.suppress(BackendError):
                    self._device.drop_mark(mark)
        return StepTimes(pre, network, post, upload, download)

    def describe(self) -> dict[str, int]:
        """What the lane holds."""
        graphs = sum(ready.graph != 0 for ready in self._ready.values())
        return {"jobs": len(self._ready), "graphs": graphs, "buffer_bytes": self._buffers.size_bytes}

    def close(self) -> None:
        """Free all; what a lost device refuses is gone anyway."""
        with contextlib.suppress(BackendError):
            self._device.synchronize(self.stream)  # after Ctrl-C its work may still be going on
        self._drop(list(self._ready))
        self._contexts.clear()
        self._buffers.close()
        with contextlib.suppress(BackendError):
            if self._constants:
                self._device.free(self._constants)
                self._constants = 0
        with contextlib.suppress(BackendError):
            if self.stream:
                self._device.destroy_stream(self.stream)
                self.stream = 0

    # what is worked out once a job

    def _prepared(self, job: GpuJob) -> _Ready:
        ready = self._ready.get(job)
        if ready is None:
            return self._prepare(job)
        self._ready.move_to_end(job)
        self._contexts.move_to_end(ready.plan.tensors.source.shape)
        return ready

    def _prepare(self, job: GpuJob) -> _Ready:
        placement = self._contract.place(job.height, job.width)
        source = input_shape(self._contract, placement, job.batch)
        context, shapes = self._context(source)
        outputs = {name: TensorSpec(shape, self._engine.output_dtypes[name]) for name, shape in shapes.items()}
        given = TensorSpec(source, self._engine.input_dtype)
        plan = Plan(job, self._contract, Tensors(given, outputs, context.scratch_bytes))
        if self._buffers.reserve(*plan.sizes()):
            self._drop(list(self._ready))  # their graphs hold the old addresses
        while len(self._ready) >= _PLANS:
            self._drop([next(iter(self._ready))])
        plan.tables_address = self._upload(plan.table_bytes())
        place = Place(self._device, self._kernels, self._contract, self._buffers, self._constants, self.stream)
        self._ready[job] = _Ready(plan, Steps(plan, place, context))
        return self._ready[job]

    def _context(self, shape: Shape) -> tuple[EngineContext, Mapping[str, Shape]]:
        """The context that is set to this input shape; the one unused for longest is set anew when there are many."""
        if shape not in self._contexts:
            context = self._new_context()
            self._contexts[shape] = (context, context.set_shape(shape, self.stream))
        self._contexts.move_to_end(shape)
        return self._contexts[shape]

    def _new_context(self) -> EngineContext:
        if len(self._contexts) < _CONTEXTS:
            try:
                return self._engine.context()
            except OutOfMemoryError:
                if not self._contexts:
                    raise
        old, (context, _) = self._contexts.popitem(last=False)
        self._drop([job for job, ready in self._ready.items() if ready.plan.tensors.source.shape == old])
        return context

    def _drop(self, jobs: list[GpuJob]) -> None:
        for job in jobs:
            ready = self._ready.pop(job)
            with contextlib.suppress(BackendError):
                if ready.graph:
                    self._device.destroy_graph(ready.graph)
            with contextlib.suppress(BackendError):
                self._device.free(ready.plan.tables_address)

    def _upload(self, data: bytes) -> int:
        address = self._device.allocate(len(data))
        self._device.upload(address, np.frombuffer(data, np.uint8), self.stream)
        self._device.synchronize(self.stream)
        return address

    # what is done for every frame

    def _bring(self, frames: Sequence[Any], ready: _Ready) -> list[object]:
        """Frames to where the graph expects them; what must be kept alive until the stream is done."""
        staging = ready.steps.frames
        if ready.plan.job.pinned:
            return [*frames]
        if staging is None:
            return [self._gather(frame, ready.plan, index) for index, frame in enumerate(frames)]
        for index, frame in enumerate(frames):
            staging[index] = frame
        return []

    def _gather(self, frame: Any, plan: Plan, index: int) -> object:
        """One frame from the GPU's memory, whatever its strides, behind its producer's work."""
        found = read_frame(frame, self._device, self.stream)
        view, shape = found.view, plan.frame_shape
        got = (*view.shape, 1) if len(view.shape) == 2 else view.shape
        if got != shape or view.dtype != np.dtype(self._contract.dtype):
            raise InputError(
                f"the frame is {view.dtype} {view.shape}, the contract wants {self._contract.dtype} {shape}",
                hint="pass HxWxC frames of the contract's type",
            )
        if found.made_on:
            self._device.wait_for(self.stream, found.made_on)
        size = view.dtype.itemsize
        strides = (*view.strides, size) if len(view.shape) == 2 else view.strides
        target = self._buffers.address("frames") + index * int(np.prod(shape)) * size
        self._kernels.pack(size, PackArguments(view.pointer, target, *strides, *shape, 0), self.stream)
        return view

    def _execute(self, ready: _Ready) -> None:
        if ready.runs == 1 and not ready.refusal:
            self._capture(ready)
        if ready.graph:
            self._device.launch_graph(ready.graph, self.stream)
        else:
            ready.steps.enqueue()
        ready.runs += 1

    def _capture(self, ready: _Ready) -> None:
        """Record the job. A refused one runs without a graph: half a graph would replay stale data for ever."""
        context, _ = self._context(ready.plan.tensors.source.shape)
        if not context.is_capturable(self.stream):
            ready.refusal = "the engine says that it cannot be captured"
            return
        self._device.begin_capture(self.stream)
        try:
            ready.steps.enqueue()
        except DeviceLostError:
            raise
        except BackendError as error:
            ready.refusal = error.message
        graph = self._device.end_capture(self.stream)
        if ready.refusal and graph:
            self._device.destroy_graph(graph)
        elif not graph:
            ready.refusal = ready.refusal or "CUDA recorded nothing"
        else:
            ready.graph = graph
        if ready.refusal:
            _log.warning("no CUDA graph for %s: %s", ready.plan.job, ready.refusal)

    # what stays on the device

    def _keep_on_device(self, plan: Plan) -> list[dict[str, Any]]:
        """Copies on the device, put on the stream."""
        return [
            {role: self._copy_out(role, index, spec) for role, spec in plan.decoding.kept.items()}
            for index in range(plan.job.frames)
        ]

    def _copy_out(self, role: str, index: int, spec: TensorSpec) -> DeviceArray:
        block = self._spare.take(spec.size_bytes, self.stream)
        array = DeviceArray(self._device, self._spare, block, spec.shape, np.dtype(spec.dtype))
        self._device.copy(array.pointer, self._buffers.address(role) + index * array.nbytes, array.nbytes, self.stream)
        return array
