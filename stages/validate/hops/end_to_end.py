"""The graph from frame to mask as other programs run it: frames in, masks out, nothing of segpipe around it."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.runtime.backends.session import FAILURES, embedded_contract, open_session, reason
from stages.validate.hops.hop import Answered

FRAME, MASK = "frame", "mask"
_VALUES = 1 << 26  # blended scores in one call: each is in memory three times


class EndToEndAnswer:
    """Its masks. It gives no scores."""

    def __init__(self, graph: bytes, contract: Contract) -> None:
        refuse_external_data(graph)
        settings = onnxruntime.SessionOptions()
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False  # they would keep the largest frame's
        try:
            self._session = open_session(graph, settings, "CPUExecutionProvider")
        except FAILURES as error:
            raise BackendError(f"ONNX Runtime cannot load it: {reason(error)}", hint="export it again") from error
        contract.require_same(embedded_contract(self._session), "the run", "the end-to-end graph")
        batch = self._session.get_inputs()[0].shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None
        self._channels = contract.score_channels

    def __call__(self, frames: Sequence[NDArray[Any]]) -> list[Answered]:
        """Masks of some frames; those of one size go together."""
        same = (list(run) for _, run in groupby(frames, key=lambda frame: frame.shape))
        return [Answered(mask, None) for run in same for mask in self._masks(run)]

    def _masks(self, frames: list[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        pixels = self._channels * frames[0].shape[0] * frames[0].shape[1]
        step = self._fixed_batch or max(1, _VALUES // pixels)
        for start in range(0, len(frames), step):
            batch = np.stack(frames[start : start + step])
            blank = (self._fixed_batch or len(batch)) - len(batch)
            whole = np.pad(batch, ((0, blank), *[(0, 0)] * 3)) if blank else batch
            yield from self._run(whole)[: len(batch)]

    def _run(self, frames: NDArray[Any]) -> NDArray[Any]:
        try:
            masks: NDArray[Any] = self._session.run([MASK], {FRAME: frames})[0]
        except FAILURES as error:
            shape = "x".join(map(str, frames.shape))
            raise BackendError(f"it failed on frames of {shape}: {reason(error)}", hint="export it again") from error
        return masks
