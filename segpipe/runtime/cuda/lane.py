"""Lane: everything one thread needs to run frames: a stream, buffers, engine contexts, and a CUDA graph for each job.

A job's first run is not captured: it is the warm-up that the engine and the kernels' loading need. Its second run is
captured, all later ones replay. Addresses are frozen in a graph: frames are copied in, results are copied out.
"""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, starmap
from typing import Any

import numpy as np

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError, InputError
from segpipe.runtime.cuda.arrays import DeviceArray, read_frame
from segpipe.runtime.cuda.buffers import Buffers
from segpipe.runtime.cuda.device import Device, DeviceLostError
from segpipe.runtime.cuda.engine import Engine, EngineContext
from segpipe.runtime.cuda.kernels import Kernels, PackArguments
from segpipe.runtime.cuda.plan import Job, Plan, Shapes, input_shape
from segpipe.runtime.preprocess import normalisation
from segpipe.runtime.request import Result, StepTimes

_CONTEXTS = 3  # input shapes a lane keeps ready; a context holds the memory of all its engine's layers
_PLANS = 16  # jobs a lane keeps ready
_AHEAD = 3  # frames that go before one whose steps are timed: while the GPU is busy with them the host gets ahead

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What all lanes of a backend share."""

    engine: Engine
    contract: Contract
    kernels: Kernels


class Lane:
    """One thread at a time. The device's context must be current."""

    def __init__(self, device: Device, parts: Parts) -> None:
        self._device = device
        self._engine, self._contract, self._kernels = parts.engine, parts.contract, parts.kernels
        self._contexts: OrderedDict[tuple[int, ...], tuple[EngineContext, tuple[int, ...]]] = OrderedDict()
        self._plans: OrderedDict[Job, Plan] = OrderedDict()
        self._buffers = Buffers(device)
        self._constants = 0
        self._steps = self._send, self._prepare, self._infer, self._decide, self._fetch
        self.stream = device.create_stream()
        try:
            self._constants = self._upload(np.concatenate(normalisation(self._contract)).astype(np.float32).tobytes())
        except BackendError:
            self.close()
            raise

    def run(self, frames: Sequence[Any], job: Job) -> list[Result]:
        """Frames of one job to results that the caller owns."""
        plan = self._plan(job)
        held = self._bring(frames, plan)
        self._execute(plan)
        kept = self._keep_on_device(plan) if job.outputs.on_device else []
        self._device.synchronize(self.stream)
        del held  # other people's frames are needed until here
        return self._results(plan, kept)

    def time_steps(self, frame: Any, job: Job) -> StepTimes:
        """One frame without its graph, each step timed on the stream."""
        plan = self._plan(job)
        self._bring([frame], plan)
        for _ in range(_AHEAD):
            self._execute(plan)
        marks: list[int] = []
        try:
            marks.append(self._device.mark(self.stream))
            for step in self._steps:
                step(plan)
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
        graphs = sum(plan.graph != 0 for plan in self._plans.values())
        return {"jobs": len(self._plans), "graphs": graphs, "buffer_bytes": self._buffers.size_bytes}

    def close(self) -> None:
        """Free all; what a lost device refuses is gone anyway."""
        with contextlib.suppress(BackendError):
            self._device.synchronize(self.stream)  # after Ctrl-C its work may still be going on
        self._drop_plans(list(self._plans))
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

    def _plan(self, job: Job) -> Plan:
        if job in self._plans:
            self._plans.move_to_end(job)
            self._contexts.move_to_end(self._plans[job].shapes.source)
            return self._plans[job]
        placement = self._contract.place(job.height, job.width)
        batch = max(job.frames, self._engine.batches[0])
        source = input_shape(self._contract, placement, batch)
        output = self._context(source)[1]
        plan = Plan(job, self._contract, Shapes(source, output, self._engine.input_dtype, self._engine.output_dtype))
        if self._buffers.reserve(*plan.sizes()):
            self._drop_plans(list(self._plans))  # their graphs hold the old addresses
        while len(self._plans) >= _PLANS:
            self._drop_plans([next(iter(self._plans))])
        plan.tables_address = self._upload(plan.table_bytes())
        self._plans[job] = plan
        return plan

    def _context(self, shape: tuple[int, ...]) -> tuple[EngineContext, tuple[int, ...]]:
        """The context that is set to this input shape; the one unused for longest is set anew when there are many."""
        if shape not in self._contexts:
            if len(self._contexts) < _CONTEXTS:
                context = self._engine.context()
            else:
                old, (context, _) = self._contexts.popitem(last=False)
                self._drop_plans([job for job, plan in self._plans.items() if plan.shapes.source == old])
            self._contexts[shape] = (context, context.set_shape(shape, self.stream))
        self._contexts.move_to_end(shape)
        return self._contexts[shape]

    def _drop_plans(self, jobs: list[Job]) -> None:
        for job in jobs:
            plan = self._plans.pop(job)
            with contextlib.suppress(BackendError):
                if plan.graph:
                    self._device.destroy_graph(plan.graph)
            with contextlib.suppress(BackendError):
                self._device.free(plan.tables_address)

    def _upload(self, data: bytes) -> int:
        address = self._device.allocate(len(data))
        self._device.upload(address, np.frombuffer(data, np.uint8), self.stream)
        self._device.synchronize(self.stream)
        return address

    # what is done for every frame

    def _bring(self, frames: Sequence[Any], plan: Plan) -> list[object]:
        """Frames to where the graph expects them; what must be kept alive until the stream is done."""
        if plan.job.on_device:
            return [self._gather(frame, plan, index) for index, frame in enumerate(frames)]
        staging = self._buffers.pinned("frames", (len(frames), *plan.frame_shape), self._contract.dtype)
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

    def _execute(self, plan: Plan) -> None:
        if plan.runs == 1 and not plan.refusal:
            self._capture(plan)
        if plan.graph:
            self._device.launch_graph(plan.graph, self.stream)
        else:
            self._enqueue(plan)
        plan.runs += 1

    def _capture(self, plan: Plan) -> None:
        """Record the job. A refused one runs without a graph: half a graph would replay stale data for ever."""
        context, _ = self._context(plan.shapes.source)
        if not context.is_capturable(self.stream):
            plan.refusal = "the engine says that it cannot be captured"
            return
        self._device.begin_capture(self.stream)
        try:
            self._enqueue(plan)
        except DeviceLostError:
            raise
        except BackendError as error:
            plan.refusal = error.message
        graph = self._device.end_capture(self.stream)
        if plan.refusal and graph:
            self._device.destroy_graph(graph)
        elif not graph:
            plan.refusal = plan.refusal or "CUDA recorded nothing"
        else:
            plan.graph = graph
        if plan.refusal:
            _log.warning("no CUDA graph for %s: %s", plan.job, plan.refusal)

    def _enqueue(self, plan: Plan) -> None:
        """The whole frame on the stream."""
        for step in self._steps:
            step(plan)

    def _send(self, plan: Plan) -> None:
        """Upload; frames on the device are there already."""
        if not plan.job.on_device:
            staging = self._buffers.pinned("frames", (plan.job.frames, *plan.frame_shape), self._contract.dtype)
            self._device.upload(self._buffers.address("frames"), staging.reshape(-1).view(np.uint8), self.stream)

    def _prepare(self, plan: Plan) -> None:
        """Frames to the network's input."""
        pre = plan.pre_arguments()
        pre.source, pre.target = self._buffers.address("frames"), self._buffers.address("input")
        pre.scale, pre.shift = self._constants, self._constants + 4 * self._contract.channels
        self._kernels.pre(self._contract.dtype, plan.shapes.input_dtype, plan.job.frames, pre, self.stream)

    def _infer(self, plan: Plan) -> None:
        """The network."""
        context, _ = self._context(plan.shapes.source)
        context.enqueue(self._buffers.address("input"), self._buffers.address("output"), self.stream)

    def _decide(self, plan: Plan) -> None:
        """Scores to masks."""
        address, post = self._buffers.address, plan.score_arguments()
        post.scores, post.labels, post.mask = address("output"), address("labels"), address("mask")
        post.confidence = address("confidence") if plan.wants_confidence else 0
        self._kernels.mask(plan.shapes.output_dtype, self._contract.mask_dtype, plan.job.frames, post, self.stream)

    def _fetch(self, plan: Plan) -> None:
        """Download."""
        for role, view in self._downloads(plan).items():
            self._device.download(view.reshape(-1).view(np.uint8), self._buffers.address(role), self.stream)

    # what goes back

    def _downloads(self, plan: Plan) -> dict[str, Any]:
        """Device buffer -> page-locked view of what the caller gets on the host."""
        views = {}
        if not plan.job.outputs.on_device:
            views["mask"] = self._buffers.pinned("mask", plan.mask_shape, self._contract.mask_dtype)
            if plan.wants_confidence:
                views["confidence"] = self._buffers.pinned("confidence", plan.mask_shape, "float32")
        if plan.wants_scores:
            views["output"] = self._buffers.pinned("scores", plan.shapes.output, plan.shapes.output_dtype)
        return views

    def _results(self, plan: Plan, kept: list[dict[str, Any]]) -> list[Result]:
        """Copies out of the page-locked buffers, which the next frame overwrites, or what was kept on the device."""
        views = self._downloads(plan)
        results = []
        for index in range(plan.job.frames):
            copied = {role: view[index].copy() for role, view in views.items() if role != "output" and not kept}
            found = kept[index] if kept else copied
            results.append(Result(found["mask"], found.get("confidence"), self._scores(plan, index)))
        return results

    def _scores(self, plan: Plan, index: int) -> Any:
        if not plan.wants_scores:
            return None
        scores = self._buffers.pinned("scores", plan.shapes.output, plan.shapes.output_dtype)[index]
        ordered = scores.transpose(2, 0, 1) if self._contract.output_layout == "nhwc" else scores
        return np.array(ordered, np.float32, order="C")

    def _keep_on_device(self, plan: Plan) -> list[dict[str, Any]]:
        """Copies on the device, put on the stream."""
        roles = {"mask": self._contract.mask_dtype} | ({"confidence": "float32"} if plan.wants_confidence else {})
        return [
            {role: self._copy_out(role, plan, index, dtype) for role, dtype in roles.items()}
            for index in range(plan.job.frames)
        ]

    def _copy_out(self, role: str, plan: Plan, index: int, dtype: str) -> DeviceArray:
        array = DeviceArray(self._device, plan.mask_shape[1:], np.dtype(dtype))
        self._device.copy(array.pointer, self._buffers.address(role) + index * array.nbytes, array.nbytes, self.stream)
        return array
