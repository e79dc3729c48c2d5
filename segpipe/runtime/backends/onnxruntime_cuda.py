"""ONNX Runtime's CUDA provider, with the frame path of the GPU backends around it on the same stream."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime

from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendError
from segpipe.runtime.backends.external_data import refuse_external_data
from segpipe.runtime.backends.session import FAILURES, embedded_contract, open_session, reason
from segpipe.runtime.cuda.backend import GpuBackend
from segpipe.runtime.cuda.device import cuda_error
from segpipe.runtime.cuda.engine import Profile, Shape
from segpipe.runtime.cuda.kernels import Kernels
from segpipe.runtime.cuda.lane import Parts
from segpipe.runtime.cuda.opening import open_device
from segpipe.runtime.request import OpenOptions
from segpipe.tasks import task_of

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
_PROVIDER = "CUDAExecutionProvider"
_BATCH = 8  # frames at once where the graph leaves the batch open: memory is the only limit
_ANY_SIDE = 1 << 31
_WHEELS = {"cuda": "cu13", "cudnn": "cudnn"}  # folders of NVIDIA's wheels
_LANES = 1  # a session is tied to its stream and holds the weights: more lanes would be more copies of them


def open(artifact: bytes, contract: FrameContract, options: OpenOptions) -> GpuBackend:
    """Open a graph on a GPU; convolutions of the FP32 graph take TF32. Refuses a graph made for another contract."""
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise BackendError(
            "this ONNX Runtime has no CUDA provider", hint="pip install 'segpipe[cuda]' in place of [cpu]"
        )
    device = open_device(options.device, options.cuda)
    preload_libraries()
    engine = OrtEngine(artifact, contract, "cuda", options.device)
    with device.current():
        kernels = Kernels(device, options.kernels)
    return GpuBackend(options.name, device, Parts(engine, contract, kernels), _LANES)


def preload_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, wherever these lie: ONNX Runtime looks beside its own package."""
    for kind, wheel in _WHEELS.items():
        folder = _wheel_folder(wheel)
        onnxruntime.preload_dlls(cuda=kind == "cuda", cudnn=kind == "cudnn", directory=folder and str(folder))


def _wheel_folder(wheel: str) -> Path | None:
    spec = importlib.util.find_spec("nvidia")
    roots = spec.submodule_search_locations or [] if spec else []
    return next((folder for root in roots if (folder := Path(root) / wheel / "lib").is_dir()), None)


class OrtEngine:
    """An ONNX graph; a session for every stream that asks. On a `cpu` its tensors' addresses are the host's."""

    def __init__(self, artifact: bytes, contract: FrameContract, device_type: str, index: int) -> None:
        self._artifact, self.contract = artifact, contract
        self.device_type, self.index = device_type, index
        refuse_external_data(artifact)
        reader = _reader(artifact)
        contract.require_same(embedded_contract(reader), "the run", "the ONNX model")
        source = reader.get_inputs()[0]
        self.input_dtype = _dtype(source)
        found = {output.name: output for output in reader.get_outputs()}
        self.output_dtypes = {name: _dtype(found[name]) for name in task_of(contract).outputs if name in found}
        self.profiles = [_profile(source.shape)]
        # Contexts own their session: it must go before its stream does, and a failed lane takes both along.
        self._sessions: WeakValueDictionary[int, Any] = WeakValueDictionary()

    def context(self) -> "OrtContext":
        """A new user of the graph."""
        return OrtContext(self)

    def session(self, stream: int) -> Any:
        """The session that computes on this stream."""
        session = self._sessions.get(stream)
        if session is None:
            session = self._sessions[stream] = self._open(stream)
        return session

    def describe(self) -> dict[str, Any]:
        """Version and provider."""
        return {"onnxruntime": onnxruntime.__version__, "provider": self._provider(0)[0]}

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()

    def _open(self, stream: int) -> Any:
        wanted = self._provider(stream)
        settings = onnxruntime.SessionOptions()
        try:
            session = open_session(self._artifact, settings, wanted)
        except FAILURES as error:
            raise _failure("loading the model", error) from error
        if session.get_providers()[0] != wanted[0]:
            raise BackendError(
                "ONNX Runtime cannot load its CUDA provider: CUDA or cuDNN libraries are missing",
                hint="pip install 'onnxruntime-gpu[cuda,cudnn]', or import torch first",
            )
        return session

    def _provider(self, stream: int) -> tuple[str, dict[str, str]]:
        if self.device_type == "cpu":
            return "CPUExecutionProvider", {}
        return _PROVIDER, {"device_id": str(self.index), "user_compute_stream": str(stream)}


class OrtContext:
    """One shape at a time."""

    scratch_bytes = 0  # ONNX Runtime has an arena of its own

    def __init__(self, engine: OrtEngine) -> None:
        self._engine = engine
        self._session: Any = None
        self._given: Shape = ()
        self._answered: dict[str, Shape] = {}
        self._bound: tuple[tuple[int, Mapping[str, int]], Any] = ((0, {}), None)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def set_shape(self, shape: Shape, stream: int) -> dict[str, Shape]:
        """Run once with memory of ONNX Runtime's own to learn the outputs' shapes."""
        engine, contract = self._engine, self._engine.contract
        self._session = session = engine.session(stream)
        binding = session.io_binding()
        try:
            empty = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                list(shape), np.dtype(engine.input_dtype), engine.device_type, engine.index
            )
            binding.bind_ortvalue_input(contract.input_name, empty)
            for name in engine.output_dtypes:
                binding.bind_output(name, engine.device_type, engine.index)
            session.run_with_iobinding(binding)
        except FAILURES as error:
            raise _failure(f"running the network on {shape}", error) from error
        values = zip(engine.output_dtypes, binding.get_outputs(), strict=True)
        self._given, self._answered = shape, {name: tuple(value.shape()) for name, value in values}
        self._bound = (0, {}), None
        return self._answered

    def is_capturable(self, stream: int) -> bool:
        """ONNX Runtime allocates and synchronises as it likes."""
        return False

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Put the network on its stream, without waiting for it. Addresses are bound when they are new."""
        if self._bound[0] != (source, targets):
            self._bound = (source, targets), self._binding(source, targets)
        try:
            self._session.run_with_iobinding(self._bound[1], self._options)
        except FAILURES as error:
            raise _failure("running the network", error) from error

    def _binding(self, source: int, targets: Mapping[str, int]) -> Any:
        engine = self._engine
        binding = self._session.io_binding()
        where = (engine.device_type, engine.index)
        binding.bind_input(engine.contract.input_name, *where, np.dtype(engine.input_dtype), self._given, source)
        for name, address in targets.items():
            dtype = np.dtype(engine.output_dtypes[name])
            binding.bind_output(name, *where, dtype, self._answered[name], address)
        return binding


def _profile(shape: list[int | str | None]) -> Profile:
    """What a graph takes: its own numbers where it has them."""
    batch, *sides = shape
    low, high = (batch, batch) if isinstance(batch, int) else (1, _BATCH)
    fixed = [side if isinstance(side, int) else None for side in sides]
    return Profile((low, *(side or 1 for side in fixed)), (high, *(side or _ANY_SIDE for side in fixed)))


def _reader(artifact: bytes) -> Any:
    """A session that only tells what the graph is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return open_session(artifact, options, "CPUExecutionProvider")
    except FAILURES as error:
        raise _failure("loading the model", error) from error


def _dtype(tensor: Any) -> str:
    if tensor.type not in _DTYPES:
        raise BackendError(f"the graph's tensor '{tensor.name}' is {tensor.type}", hint="export it again")
    return _DTYPES[tensor.type]


def _failure(doing: str, error: Exception) -> BackendError:
    text = reason(error)
    if "out of memory" in text.lower() or "failed to allocate" in text.lower():
        return cuda_error(f"ONNX Runtime: {doing}", "CUDA_ERROR_OUT_OF_MEMORY", text)
    return BackendError(f"ONNX Runtime: {doing} failed: {text}", hint="export it again, or use onnxruntime-cpu")
