"""Steps: one plan on one lane, ready to be put on its stream: addresses, argument structures and views, made once."""

import ctypes
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.runtime.cuda.engine import EngineContext
from segpipe.runtime.cuda.job import Place, output_role
from segpipe.runtime.cuda.kernels import PreArguments
from segpipe.runtime.cuda.plan import Plan


class Steps:
    """Valid until a buffer moves or the context takes another shape."""

    def __init__(self, plan: Plan, place: Place, context: EngineContext) -> None:
        self._plan, self._place, self._context = plan, place, context
        self.frames = self._staging()
        """Where frames from the host are put; None for frames that lie where they are read."""
        self.downloads = self._downloads()
        """Device buffer -> page-locked view of what the caller gets on the host."""
        self._uploads = self._sources()
        self._fetched = [
            (view.reshape(-1).view(np.uint8), place.buffers.address(role)) for role, view in self.downloads.items()
        ]
        self._pre = self._pre_arguments()
        self._targets = {name: place.buffers.address(output_role(name)) for name in plan.tensors.outputs}
        self.all: tuple[Callable[[], None], ...] = (
            self._send,
            self._prepare,
            self._infer,
            plan.decoding.step(place, plan.decoding_tables),
            self._fetch,
        )
        """Upload, first kernel, network, last kernels, download."""

    def enqueue(self) -> None:
        """The whole frame on the stream."""
        for step in self.all:
            step()

    def _send(self) -> None:
        for memory in self._uploads:
            self._place.device.upload(self._place.buffers.address("frames"), memory, self._place.stream)

    def _prepare(self) -> None:
        place, plan = self._place, self._plan
        place.kernels.pre(place.contract.dtype, plan.tensors.source.dtype, plan.job.frames, self._pre, place.stream)

    def _infer(self) -> None:
        address = self._place.buffers.address
        self._context.enqueue(address("input"), self._targets, address("scratch"), self._place.stream)

    def _fetch(self) -> None:
        for memory, source in self._fetched:
            self._place.device.download(memory, source, self._place.stream)

    def _staging(self) -> NDArray[Any] | None:
        job, place = self._plan.job, self._place
        if job.on_device or job.pinned:
            return None
        return place.buffers.pinned("frames", (job.frames, *self._plan.frame_shape), place.contract.dtype)

    def _sources(self) -> list[NDArray[Any]]:
        job = self._plan.job
        if job.pinned:  # not owned: the caller's frame is held while it is read
            size = math.prod(self._plan.frame_shape) * np.dtype(self._place.contract.dtype).itemsize
            return [np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(job.pinned))]
        return [] if self.frames is None else [self.frames.reshape(-1).view(np.uint8)]

    def _downloads(self) -> dict[str, NDArray[Any]]:
        pinned = self._place.buffers.pinned
        return {role: pinned(role, spec.shape, spec.dtype) for role, spec in self._plan.decoding.downloads.items()}

    def _pre_arguments(self) -> PreArguments:
        pre, place = self._plan.pre_arguments(), self._place
        pre.source, pre.target = place.buffers.address("frames"), place.buffers.address("input")
        pre.scale, pre.shift = place.constants, place.constants + 4 * place.contract.channels
        return pre
