"""Masks on the device: the semantic task's kernels, their arguments, and what comes back of them."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segpipe.contract.schema import Placement, SemanticContract
from segpipe.errors import BackendError
from segpipe.runtime.cuda.geometry import Tables, mask_tables
from segpipe.runtime.cuda.job import GpuJob, Place, Tensors, TensorSpec, output_role
from segpipe.runtime.cuda.kernels import KINDS, ScoreArguments
from segpipe.runtime.request import Decoded


class Masks:
    """One job's masks, and confidence and scores where they are asked for."""

    def __init__(self, job: GpuJob, contract: SemanticContract, placement: Placement, tensors: Tensors) -> None:
        self._job, self._contract = job, contract
        self._role, self._output = output_role(contract.output_name), tensors.outputs[contract.output_name]
        self.channels, self.height, self.width = score_grid(contract, self._output.shape)
        self.target = job.outputs.placed(placement)
        scored = contract.output_kind != "labels"  # a network that answers labels knows neither
        self._confident, self._scored = job.outputs.confidence and scored, job.outputs.scores and scored
        mask = TensorSpec((job.frames, *self.target.source), contract.mask_dtype)
        made = {"mask": mask} | ({"confidence": TensorSpec(mask.shape, "float32")} if self._confident else {})
        labels = job.frames * self.height * self.width * np.dtype(contract.mask_dtype).itemsize
        self.device_bytes = {"labels": labels} | {role: spec.size_bytes for role, spec in made.items()}
        self.kept = {role: TensorSpec(spec.shape[1:], spec.dtype) for role, spec in made.items()}
        scores = {self._role: self._output} if self._scored else {}
        self.downloads = ({} if job.outputs.on_device else made) | scores

    @cached_property
    def _tables(self) -> Tables:
        return mask_tables(self.target, self.height, self.width)

    def tables(self) -> bytes:
        """Taps of the mask's rows, then of its columns."""
        return self._tables.rows.tobytes() + self._tables.columns.tobytes()

    def step(self, place: Place, tables: int) -> Callable[[], None]:
        """Winners, then masks."""
        arguments, address = self.arguments(tables), place.buffers.address
        arguments.scores, arguments.labels, arguments.mask = address(self._role), address("labels"), address("mask")
        arguments.confidence = address("confidence") if self._confident else 0
        scores, mask, frames = self._output.dtype, self._contract.mask_dtype, self._job.frames

        def enqueue() -> None:
            place.kernels.mask(scores, mask, frames, arguments, place.stream)

        return enqueue

    def arguments(self, tables: int) -> ScoreArguments:
        """Geometry of the kernels, without the buffers' addresses."""
        limit = self._contract.limit
        return ScoreArguments(
            rows=tables,
            columns=tables + self._tables.rows.nbytes,
            height=self.height,
            width=self.width,
            channels=self.channels,
            mask_height=self.target.source[0],
            mask_width=self.target.source[1],
            nhwc=self._contract.output_layout == "nhwc",
            kind=KINDS[self._contract.output_kind if limit is None else "sigmoid"],
            limit=0.0 if limit is None else limit,
        )

    def answers(self, views: Mapping[str, NDArray[Any]], kept: Sequence[Mapping[str, Any]]) -> list[Decoded]:
        """Copies of what was downloaded, or what was kept on the device."""
        answers = []
        for index in range(self._job.frames):
            scores = self._planes(views[self._role][index]) if self._scored else None
            if kept:
                answers.append(Decoded(kept[index]["mask"], kept[index].get("confidence"), scores))
            else:
                sure = views["confidence"][index].copy() if self._confident else None
                answers.append(Decoded(views["mask"][index].copy(), sure, scores))
        return answers

    def _planes(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        ordered = scores.transpose(2, 0, 1) if self._contract.output_layout == "nhwc" else scores
        return np.array(ordered, np.float32, order="C")


def score_grid(contract: SemanticContract, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(channels, height, width) of one frame's output, compared with the contract."""
    channels = contract.score_channels
    if len(shape) == 3 and contract.output_kind == "labels":
        found = (1, *shape[1:])
    elif len(shape) == 4:
        found = (shape[3], shape[1], shape[2]) if contract.output_layout == "nhwc" else shape[1:]
    else:
        found = (0, 0, 0)
    if found[0] != channels or min(found) < 1:
        wanted = f"{channels} channel{'s' if channels > 1 else ''}, {contract.output_layout}"
        raise BackendError(f"the engine answers {shape}, the contract says {wanted}", hint="export and build again")
    return int(found[0]), int(found[1]), int(found[2])
