"""Steps: one plan on one lane, ready to be put on its stream: addresses, argument structures and views, made once."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.runtime.cuda.buffers import Buffers
from segpipe.runtime.cuda.device import Device
from segpipe.runtime.cuda.engine import EngineContext
from segpipe.runtime.cuda.kernels import Kernels, PreArguments, ScoreArguments
from segpipe.runtime.cuda.plan import Plan


@dataclass(frozen=True)
class Place:
    """What a lane lends to its steps."""

    device: Device
    kernels: Kernels
    contract: Contract
    buffers: Buffers
    constants: int
    """Device address of the normalisation's scale and shift."""
    stream: int


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
        self._pre, self._post = self._pre_arguments(), self._score_arguments()
        self.all: tuple[Callable[[], None], ...] = (self._send, self._prepare, self._infer, self._decide, self._fetch)
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
        place.kernels.pre(place.contract.dtype, plan.shapes.input_dtype, plan.job.frames, self._pre, place.stream)

    def _infer(self) -> None:
        address = self._place.buffers.address
        self._context.enqueue(address("input"), address("output"), address("scratch"), self._place.stream)

    def _decide(self) -> None:
        place, plan = self._place, self._plan
        mask_dtype = place.contract.mask_dtype
        place.kernels.mask(plan.shapes.output_dtype, mask_dtype, plan.job.frames, self._post, place.stream)

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
        plan, pinned = self._plan, self._place.buffers.pinned
        views = {}
        if not plan.job.outputs.on_device:
            views["mask"] = pinned("mask", plan.mask_shape, self._place.contract.mask_dtype)
            if plan.wants_confidence:
                views["confidence"] = pinned("confidence", plan.mask_shape, "float32")
        if plan.wants_scores:
            views["output"] = pinned("scores", plan.shapes.output, plan.shapes.output_dtype)
        return views

    def _pre_arguments(self) -> PreArguments:
        pre, place = self._plan.pre_arguments(), self._place
        pre.source, pre.target = place.buffers.address("frames"), place.buffers.address("input")
        pre.scale, pre.shift = place.constants, place.constants + 4 * place.contract.channels
        return pre

    def _score_arguments(self) -> ScoreArguments:
        post, address = self._plan.score_arguments(), self._place.buffers.address
        post.scores, post.labels, post.mask = address("output"), address("labels"), address("mask")
        post.confidence = address("confidence") if self._plan.wants_confidence else 0
        return post
