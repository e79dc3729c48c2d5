"""ONNX Runtime on the CPU."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import onnxruntime

from segpipe.contract.schema import FrameContract
from segpipe.runtime.backends.host import HostBackend, Tensors, failed, open_on_host, refused, unloadable
from segpipe.runtime.backends.session import FAILURES, InvalidArgument, embedded_contract, open_session, reason
from segpipe.runtime.request import OpenOptions

_LIBRARY = "ONNX Runtime"
_PROVIDER = "CPUExecutionProvider"
_ERRORS_ONLY = 3  # for this session: the application's own sessions log as it likes


class _Session:
    """A session computes in the threads that call it, with more of its own beside each."""

    def __init__(self, frugal: bool, artifact: bytes, threads: int, calls: int) -> None:
        settings = onnxruntime.SessionOptions()
        settings.enable_cpu_mem_arena = settings.enable_mem_pattern = not frugal
        settings.intra_op_num_threads = threads
        settings.log_severity_level = _ERRORS_ONLY
        try:
            self._session = open_session(artifact, settings, _PROVIDER)
        except FAILURES as error:
            raise unloadable(_LIBRARY, reason(error)) from error
        self.contract = embedded_contract(self._session)
        batch = self._session.get_inputs()[0].shape[0]
        self.fixed_batch = batch if isinstance(batch, int) else None

    def run(self, tensors: Tensors, wanted: Sequence[str]) -> Tensors:
        try:
            return dict(zip(wanted, self._session.run(wanted, tensors), strict=True))
        except InvalidArgument as error:
            raise refused(tensors, reason(error)) from error
        except FAILURES as error:
            raise failed(_LIBRARY, tensors, reason(error)) from error

    def describe(self) -> dict[str, Any]:
        return {"onnxruntime": onnxruntime.__version__, "provider": _PROVIDER}


def open(artifact: bytes, contract: FrameContract, options: OpenOptions) -> HostBackend:
    """Open ONNX bytes, refusing a graph made for another contract or with weights outside these bytes."""
    return open_on_host(partial(_Session, options.frugal), artifact, contract, options)
