"""OpenVINO on the CPU, in the precision that was asked for and in no other."""

import io
from collections import deque
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import openvino
from openvino.frontend import (
    FrontEndManager,
    GeneralFailure,
    InitializationFailure,
    NotImplementedFailure,
    OpConversionFailure,
    OpValidationFailure,
)

from segpipe.artifacts import ON_CPU, Precision
from segpipe.contract.schema import METADATA_KEY, FrameContract
from segpipe.errors import BackendError
from segpipe.processor import computes, wanted_sets
from segpipe.runtime.backends.host import HostBackend, Tensors, failed, open_on_host, refused, unloadable
from segpipe.runtime.request import OpenOptions

_LIBRARY = "OpenVINO"
_TYPES: dict[Precision, openvino.Type] = {
    "fp32": openvino.Type.f32,
    "bf16": openvino.Type.bf16,
    "int8": openvino.Type.f32,  # what the graph says is INT8; the rest stays as it is
}
_PRECISION = "INFERENCE_PRECISION_HINT"
_METADATA = "framework"  # where its ONNX reader keeps what the file says about itself
_FAILURES = (RuntimeError, MemoryError, UnicodeError)  # the last where its message quotes bytes that are no text
_KEPT_SIZES = 200  # prepared operations that a stream keeps for frame sizes it met; OpenVINO's own 5,000 fill memory
_UNREADABLE = (GeneralFailure, InitializationFailure, NotImplementedFailure, OpConversionFailure, OpValidationFailure)
_NOISE = ("Exception from ", "Check '", "FrontEnd API failed")  # lines that name its own sources


def open(artifact: bytes, contract: FrameContract, options: OpenOptions) -> HostBackend:
    """Open ONNX bytes, refusing a graph made for another contract or with weights outside these bytes."""
    precision = options.precision
    if precision not in _TYPES:
        raise BackendError(
            f"OpenVINO's backend does not compute in {precision}, it knows {', '.join(_TYPES)}",
            hint="open precision fp32",
        )
    if not computes(precision):
        raise BackendError(
            f"this processor has no instructions for {precision}: none of {', '.join(wanted_sets(precision))}",
            hint="open backend openvino, which computes in fp32",
        )
    return open_on_host(partial(_Compiled, precision, options.frugal), artifact, contract, options)


@cache
def core() -> openvino.Core:
    """The only one of this process, never closed.

    Each gives the thread that first compiles with it a stack for signals and frees it when it goes, in whatever order
    and thread: the next signal, Ctrl-C say, would run on freed memory and end the process.
    """
    return openvino.Core()


class _Compiled:
    """Has a stream of OpenVINO's threads for each call at once; a request is one call's at a time."""

    def __init__(self, precision: Precision, frugal: bool, artifact: bytes, threads: int, calls: int) -> None:
        try:
            model = _read_onnx(artifact)
            compiled = core().compile_model(model, "CPU", _settings(precision, threads, calls))
        except (*_FAILURES, *_UNREADABLE) as error:
            raise unloadable(_LIBRARY, _reason(error)) from error
        _require_precision(compiled, precision)
        self.contract = _embedded_contract(model)
        self._shapes = {name: port.partial_shape for port in model.inputs for name in port.names}
        batch = model.inputs[0].partial_shape[0]
        self.fixed_batch = batch.get_length() if batch.is_static else None
        self._precision, self._frugal, self._compiled = precision, frugal, compiled
        self._idle: deque[openvino.InferRequest] = deque()

    def run(self, tensors: Tensors, wanted: Sequence[str]) -> Tensors:
        for name, tensor in tensors.items():
            if name in self._shapes and not self._shapes[name].compatible(openvino.PartialShape(list(tensor.shape))):
                raise refused(tensors, f"'{name}' takes {self._shapes[name]}")
        try:
            request = self._request()
            for name, tensor in tensors.items():
                request.set_tensor(name, openvino.Tensor(tensor, shared_memory=True))
            request.infer(share_outputs=True)
            if self._frugal:
                self._compiled.release_memory()  # of all but the request's own tensors
            answers = {name: request.get_tensor(name).data.copy() for name in wanted}
        except _FAILURES as error:
            raise failed(_LIBRARY, tensors, _reason(error)) from error
        if not self._frugal:  # where memory matters its tensors go with it
            self._idle.append(request)  # after an error it is dropped
        return answers

    def describe(self) -> dict[str, Any]:
        return {"openvino": openvino.__version__.partition("-")[0], "precision": self._precision}

    def _request(self) -> openvino.InferRequest:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()


def _read_onnx(artifact: bytes) -> openvino.Model:
    """Read as ONNX and as nothing else: left to guess, OpenVINO opens other formats, which nothing has looked into."""
    reader = FrontEndManager().load_by_framework("onnx")
    model = reader.convert(reader.load(io.BytesIO(artifact)))
    if not model.inputs:
        raise RuntimeError("there is no graph in these bytes")
    return model


def _settings(precision: Precision, threads: int, calls: int) -> dict[str, Any]:
    """Of the precision more than a hint: left alone, OpenVINO takes bf16 wherever the processor has it."""
    return {
        _PRECISION: _TYPES[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": calls,
        "INFERENCE_NUM_THREADS": calls * threads,
        "CPU_RUNTIME_CACHE_CAPACITY": _KEPT_SIZES,
        "ENABLE_CPU_PINNING": False,  # each process would pin its threads to the same first cores
    }


def _require_precision(compiled: openvino.CompiledModel, precision: Precision) -> None:
    """It may compile for another precision than it was told, without a word."""
    found = compiled.get_property(_PRECISION)
    if found != _TYPES[precision]:
        raise BackendError(
            f"OpenVINO was asked for {precision} and computes in {found.to_string()}",
            hint=f"open backend {ON_CPU.name}",
        )


def _embedded_contract(model: openvino.Model) -> FrameContract:
    """The contract inside the graph."""
    path = [_METADATA, METADATA_KEY]
    try:
        metadata = {METADATA_KEY: model.get_rt_info(path).astype(str)} if model.has_rt_info(path) else {}
    except UnicodeError as error:
        raise BackendError(f"the ONNX model's metadata is not UTF-8: {error}", hint="export it again") from error
    return FrameContract.from_metadata(metadata, "the ONNX model")


def _reason(error: Exception) -> str:
    """What OpenVINO said, on one line, without the places in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_NOISE)) or " ".join(lines)
