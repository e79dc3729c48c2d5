"""ONNX Runtime on the CPU: numpy and OpenCV around one session."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segpipe.contract.schema import Contract, Placement
from segpipe.errors import BackendError
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.runtime.backends.session import FAILURES, InvalidArgument, embedded_contract, open_session, reason
from segpipe.runtime.confidence import confidence
from segpipe.runtime.postprocess import as_planes, postprocess
from segpipe.runtime.preprocess import preprocess, tensor_shape
from segpipe.runtime.request import Decoded, OpenOptions, Outputs

_MAX_BATCH = 8  # frames in one call of the session; more make nothing faster on a CPU, and cost memory
_ERRORS_ONLY = 3  # for this session: the application's own sessions log as it likes


class _Sessions:
    """The graph opened for one call that uses every core and, once calls meet, for many that use one core each.

    From half as many calls in flight as there are cores on, one thread a call gives more frames a second.
    """

    def __init__(self, artifact: bytes, threads: int) -> None:
        self.threads = threads
        self.wide = _session(artifact, threads)
        self._artifact = artifact
        self._narrow = self.wide if threads == 1 else None
        self._in_flight = 0
        self._lock = threading.Lock()

    @contextmanager
    def fitting(self) -> Iterator[tuple[onnxruntime.InferenceSession, int]]:
        """The session for a call that begins now, and how many cores the call may use."""
        with self._lock:
            crowded = self._in_flight > 0 and 2 * self._in_flight >= self.threads
            if crowded and self._narrow is None:
                self._narrow = _session(self._artifact, 1)
            self._in_flight += 1
        try:
            yield (self._narrow, 1) if crowded else (self.wide, self.threads)
        finally:
            with self._lock:
                self._in_flight -= 1


class OnnxRuntimeCpu:
    """Called from any thread. Frames that give tensors of one size run as a batch."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def __init__(self, sessions: _Sessions, contract: Contract) -> None:
        self._sessions: _Sessions | None = sessions
        self._contract = contract
        self._own = threading.local()
        batch = sessions.wide.get_inputs()[0].shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None

    def infer(self, frames: Sequence[NDArray[Any]], outputs: Outputs) -> list[Decoded]:
        """HxWxC frames to results, in order."""
        placed = [(frame, self._contract.place(*frame.shape[:2])) for frame in frames]
        limit = self._fixed_batch or _MAX_BATCH
        results: list[Decoded] = []
        with self._opened().fitting() as (session, cores):
            for _, run in groupby(placed, key=lambda pair: pair[1].canvas):
                same = list(run)
                for start in range(0, len(same), limit):
                    results += self._batch(session, cores, same[start : start + limit], outputs)
        return results

    def pinned_frame(self, height: int, width: int) -> NDArray[Any]:
        """Memory as any other."""
        return np.empty((height, width, self._contract.channels), self._contract.dtype)

    def warm_up(self, frames: Sequence[NDArray[Any]], lanes: int) -> None:
        """A call as any other: threads share the session."""
        self.infer(frames, Outputs())

    def scores(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The network alone: a batch of input tensors to its raw output."""
        return self._run(self._opened().wide, tensor)

    def describe(self) -> dict[str, Any]:
        """Version, provider and threads."""
        version, threads = onnxruntime.__version__, self._opened().threads
        return {"onnxruntime": version, "provider": "CPUExecutionProvider", "threads": threads}

    def close(self) -> None:
        """Free the sessions; calls under way still end well."""
        self._sessions = None

    def _opened(self) -> _Sessions:
        if self._sessions is None:
            raise BackendError("this backend is closed", hint="open the run again")
        return self._sessions

    def _run(self, session: onnxruntime.InferenceSession, tensor: NDArray[Any]) -> NDArray[Any]:
        contract = self._contract
        try:
            output: NDArray[Any] = session.run([contract.output_name], {contract.input_name: tensor})[0]
        except InvalidArgument as error:
            message = f"the network refused input {tensor.dtype} {tensor.shape}: {reason(error)}"
            raise BackendError(message, hint="export with sizes that cover this frame") from error
        except FAILURES as error:
            message = f"ONNX Runtime failed on input {tensor.dtype} {tensor.shape}: {reason(error)}"
            raise BackendError(message, hint="pass smaller frames or fewer at once if memory ran out") from error
        return output

    def _batch(
        self,
        session: onnxruntime.InferenceSession,
        cores: int,
        frames: Sequence[tuple[NDArray[Any], Placement]],
        outputs: Outputs,
    ) -> list[Decoded]:
        contract = self._contract
        tensor = self._tensor((self._fixed_batch or len(frames), *tensor_shape(contract, frames[0][1])))
        tensor[len(frames) :] = 0  # a graph of fixed batch gets blank frames to fill it
        for (frame, placement), part in zip(frames, tensor, strict=False):
            preprocess(frame, contract, placement, part, cores)
        batch = zip(self._run(session, tensor), frames, strict=False)
        return [self._result(scores, placement, outputs) for scores, (_, placement) in batch]

    def _tensor(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """This thread's last tensor when it fits: fresh memory costs more than filling it."""
        last: NDArray[Any] | None = getattr(self._own, "tensor", None)
        if last is None or last.shape != shape:
            last = self._own.tensor = np.empty(shape, self._contract.input_dtype)
        return last

    def _result(self, scores: NDArray[Any], placement: Placement, outputs: Outputs) -> Decoded:
        contract = self._contract
        target = placement.whole_canvas() if outputs.at_network_size else placement
        return Decoded(
            mask=postprocess(scores, contract, target),
            confidence=confidence(scores, contract, target) if outputs.confidence else None,
            scores=as_planes(scores, contract).copy() if outputs.scores else None,
        )


def open(artifact: bytes, contract: Contract, options: OpenOptions) -> OnnxRuntimeCpu:
    """Open ONNX bytes, refusing a graph made for another contract or with weights outside these bytes."""
    refuse_external_data(artifact)
    sessions = _Sessions(artifact, options.threads or len(os.sched_getaffinity(0)))
    contract.require_same(embedded_contract(sessions.wide), "the run", "the ONNX model")
    return OnnxRuntimeCpu(sessions, contract)


def _session(artifact: bytes, threads: int) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = _ERRORS_ONLY
    try:
        return open_session(artifact, settings, "CPUExecutionProvider")
    except FAILURES as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {reason(error)}", hint="export it again") from error
