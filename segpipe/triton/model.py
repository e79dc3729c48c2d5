"""The model of Triton's Python backend. Imported in the server's process alone, by the `model.py` of a version."""

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as server

from segpipe.errors import InputError, UnfitFrameError
from segpipe.runtime.segmenter import Segmenter
from segpipe.triton.answers import Answer, masks_of
from segpipe.triton.config import FRAME, MASK


class TritonPythonModel:
    """One instance: opens the bundle beside it, and answers what the server gives it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Refuse a bundle of another contract, or one that the gate has not passed."""
        entries = json.loads(args["model_config"])["parameters"]
        parameters = {name: entry["string_value"] for name, entry in entries.items()}
        bundle = Path(args["model_repository"], args["model_version"], "bundle")
        on_gpu = args["model_instance_kind"] == "GPU"
        device = int(args["model_instance_device_id"]) if on_gpu else 0
        self._segmenter = Segmenter.open(
            bundle, parameters["backend"], device=device, threads=int(parameters["threads"])
        )
        if self._segmenter.contract.sha256 != parameters["contract_sha256"]:
            self._segmenter.close()
            raise server.TritonModelException(f"{bundle} is of another contract than config.pbtxt")
        server.Logger.log_info(f"segpipe: {json.dumps(self._segmenter.describe())}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        frames = [np.from_dlpack(server.get_input_tensor_by_name(request, FRAME)) for request in requests]
        return [_response(answer) for answer in masks_of(self._segmenter, frames)]

    def finalize(self) -> None:
        """The server lets the instance go."""
        self._segmenter.close()


class _Handed:
    """An array whose capsule is the server's to free: some give it a name that numpy, freeing it too, complains of."""

    def __init__(self, array: Any) -> None:
        self._array = array

    def __dlpack__(self, **wanted: Any) -> Any:
        capsule = self._array.__dlpack__(**wanted)
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def _response(answer: Answer) -> Any:
    if isinstance(answer, np.ndarray):
        # by DLPack: with numpy 2, Tensor(name, array) of older servers holds 0 bytes and says nothing
        return server.InferenceResponse([server.Tensor.from_dlpack(MASK, _Handed(answer))])
    is_theirs = isinstance(answer, (InputError, UnfitFrameError))
    code = server.TritonError.INVALID_ARG if is_theirs else server.TritonError.INTERNAL
    return server.InferenceResponse(error=server.TritonError(str(answer), code))
