"""ONNX Runtime on the CPU: numpy and OpenCV around one session."""

import os
import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segpipe.contract import Contract, Placement
from segpipe.errors import BackendError
from segpipe.runtime.confidence import confidence
from segpipe.runtime.postprocess import as_planes, postprocess
from segpipe.runtime.preprocess import preprocess, tensor_shape
from segpipe.runtime.request import OpenOptions, Outputs, Result

onnxruntime.set_default_logger_severity(3)  # errors only; its warnings on a machine without a GPU are noise

_MAX_BATCH = 8  # frames in one call of the session; more make nothing faster on a CPU, and cost memory
_ERRORS = onnxruntime.capi.onnxruntime_pybind11_state


class OnnxRuntimeCpu:
    """One session, called from any thread. Frames that give tensors of one size run as a batch."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def __init__(self, session: onnxruntime.InferenceSession, contract: Contract) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._contract = contract
        self._own = threading.local()
        batch = session.get_inputs()[0].shape[0]
        self._fixed_batch = batch if isinstance(batch, int) else None

    def infer(self, frames: Sequence[NDArray[Any]], outputs: Outputs) -> list[Result]:
        """HxWxC frames to results, in order."""
        placed = [(frame, self._contract.place(*frame.shape[:2])) for frame in frames]
        limit = self._fixed_batch or _MAX_BATCH
        results: list[Result] = []
        for _, run in groupby(placed, key=lambda pair: pair[1].canvas):
            same = list(run)
            for start in range(0, len(same), limit):
                results += self._batch(same[start : start + limit], outputs)
        return results

    def scores(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The network alone: a batch of input tensors to its raw output."""
        session, contract = self._session, self._contract
        if session is None:
            raise BackendError("this backend is closed", hint="open the run again")
        try:
            output: NDArray[Any] = session.run([contract.output_name], {contract.input_name: tensor})[0]
        except _ERRORS.InvalidArgument as error:
            message = f"the network refused input {tensor.dtype} {tensor.shape}: {error}"
            raise BackendError(message, hint="export with sizes that cover this frame") from error
        except (_ERRORS.RuntimeException, _ERRORS.Fail) as error:
            message = f"ONNX Runtime failed on input {tensor.dtype} {tensor.shape}: {error}"
            raise BackendError(message, hint="pass smaller frames or fewer at once if memory ran out") from error
        return output

    def describe(self) -> dict[str, Any]:
        """Version, provider and threads."""
        threads = self._session.get_session_options().intra_op_num_threads if self._session else 0
        return {"onnxruntime": onnxruntime.__version__, "provider": "CPUExecutionProvider", "threads": threads}

    def close(self) -> None:
        """Free the session; calls that are under way end first."""
        self._session = None

    def _batch(self, frames: Sequence[tuple[NDArray[Any], Placement]], outputs: Outputs) -> list[Result]:
        contract = self._contract
        tensor = self._tensor((self._fixed_batch or len(frames), *tensor_shape(contract, frames[0][1])))
        tensor[len(frames) :] = 0  # a graph of fixed batch gets blank frames to fill it
        for (frame, placement), part in zip(frames, tensor, strict=False):
            preprocess(frame, contract, placement, part)
        batch = zip(self.scores(tensor), frames, strict=False)
        return [self._result(scores, placement, outputs) for scores, (_, placement) in batch]

    def _tensor(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """This thread's last tensor when it fits: fresh memory costs more than filling it."""
        last: NDArray[Any] | None = getattr(self._own, "tensor", None)
        if last is None or last.shape != shape:
            last = self._own.tensor = np.empty(shape, self._contract.input_dtype)
        return last

    def _result(self, scores: NDArray[Any], placement: Placement, outputs: Outputs) -> Result:
        contract = self._contract
        target = placement.whole_canvas() if outputs.at_network_size else placement
        return Result(
            mask=postprocess(scores, contract, target),
            confidence=confidence(scores, contract, target) if outputs.confidence else None,
            scores=as_planes(scores, contract).copy() if outputs.scores else None,
        )


def open(artifact: bytes, contract: Contract, options: OpenOptions) -> OnnxRuntimeCpu:
    """Open ONNX bytes, refusing a graph made for another contract."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads or len(os.sched_getaffinity(0))
    try:
        session = onnxruntime.InferenceSession(artifact, settings, providers=["CPUExecutionProvider"])
    except (_ERRORS.Fail, _ERRORS.InvalidGraph, _ERRORS.InvalidProtobuf, _ERRORS.NotImplemented) as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {error}", hint="export it again") from error
    embedded = Contract.from_metadata(session.get_modelmeta().custom_metadata_map, "the ONNX model")
    contract.require_same(embedded, "the run", "the ONNX model")
    return OnnxRuntimeCpu(session, contract)
