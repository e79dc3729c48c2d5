"""ONNX Runtime on the CPU: numpy and OpenCV around one session."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segpipe.contract import Contract
from segpipe.errors import BackendError
from segpipe.runtime.postprocess import postprocess
from segpipe.runtime.preprocess import preprocess
from segpipe.runtime.request import OpenOptions, Outputs, Result

onnxruntime.set_default_logger_severity(3)  # errors only; its warnings on a machine without a GPU are noise


class OnnxRuntimeCpu:
    """One session, called from any thread. Frames of different sizes run one after the other."""

    name = "onnxruntime-cpu"
    device = "cpu"

    def __init__(self, session: onnxruntime.InferenceSession, contract: Contract) -> None:
        self._session: onnxruntime.InferenceSession | None = session
        self._contract = contract

    def infer(self, frames: Sequence[NDArray[Any]], outputs: Outputs) -> list[Result]:
        """HxWxC frames to results, in order."""
        return [self._one(frame) for frame in frames]

    def scores(self, tensor: NDArray[Any]) -> NDArray[Any]:
        """The network alone: a batch of input tensors to its raw output."""
        if self._session is None:
            raise BackendError("this backend is closed", hint="open the run again")
        contract = self._contract
        try:
            output: NDArray[Any] = self._session.run([contract.output_name], {contract.input_name: tensor})[0]
        except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            message = f"the network refused input {tensor.dtype} {tensor.shape}: {error}"
            raise BackendError(message, hint="export with sizes that cover this frame") from error
        return output

    def describe(self) -> dict[str, Any]:
        """Version and provider."""
        return {"onnxruntime": onnxruntime.__version__, "provider": "CPUExecutionProvider"}

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def _one(self, frame: NDArray[Any]) -> Result:
        placement = self._contract.place(*frame.shape[:2])
        tensor = preprocess(frame, self._contract, placement)
        return Result(postprocess(self.scores(tensor[np.newaxis])[0], self._contract, placement))


def open(artifact: bytes, contract: Contract, options: OpenOptions) -> OnnxRuntimeCpu:
    """Open ONNX bytes, refusing a graph made for another contract."""
    try:
        session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        raise BackendError(f"ONNX Runtime cannot load the model: {error}", hint="export it again") from error
    embedded = Contract.from_metadata(session.get_modelmeta().custom_metadata_map, "the ONNX model")
    contract.require_same(embedded, "the run", "the ONNX model")
    return OnnxRuntimeCpu(session, contract)
