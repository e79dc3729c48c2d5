"""Serialised engines to masks' scores: deserialising, execution contexts and enqueueing, in either flavour."""

from typing import Any

from segpipe.contract.schema import Contract
from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import cuda_error
from segpipe.runtime.request import BuiltFor
from segpipe.runtime.trt import Flavour, load, logger
from segpipe.runtime.trt.preflight import refuse_invalid

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}
_REBUILD = "run `segpipe build` on this machine"


class TrtEngine:
    """A deserialised engine with the contract's one input and one output. The context must be current."""

    def __init__(self, flavour: Flavour, plan: bytes, contract: Contract, built: BuiltFor) -> None:
        self.flavour, self.contract = flavour, contract
        self._trt = load(flavour)
        self._messages = logger(self._trt)
        self._runtime: Any = self._trt.Runtime(self._messages)
        if flavour == "tensorrt-rtx":
            validity, diagnostics = self._runtime.get_engine_validity(plan)
            refuse_invalid(validity.name, self._diagnostics(diagnostics))
        # A version-compatible plan brings its own runtime. Its bytes were hashed before they came here.
        self._runtime.engine_host_code_allowed = built.version_compatible
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self.failure("deserialising the engine")
        self._require_tensors()
        self.input_dtype = self._dtype(contract.input_name)
        self.output_dtype = self._dtype(contract.output_name)
        profiles = range(self._engine.num_optimization_profiles)
        shapes = [self._engine.get_tensor_profile_shape(contract.input_name, index) for index in profiles]
        self._profiles = [(tuple(smallest), tuple(largest)) for smallest, _, largest in shapes]
        self.batches = (min(low[0] for low, _ in self._profiles), max(high[0] for _, high in self._profiles))
        self._settings = self._runtime_settings() if flavour == "tensorrt-rtx" else None

    def context(self) -> "TrtContext":
        """An execution context with memory of its own."""
        context = self._engine.create_execution_context(*([self._settings] if self._settings else []))
        if context is None:
            raise self.failure("making an execution context")
        return TrtContext(self, context)

    def profile_for(self, shape: tuple[int, ...]) -> int:
        """The optimization profile that takes an input of this shape."""
        for index, (low, high) in enumerate(self._profiles):
            if all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
                return index
        ranges = " or ".join(f"{low} to {high}" for low, high in self._profiles)
        raise BackendError(
            f"the engine takes inputs of {ranges}, this frame needs {shape}",
            hint="segment huge frames in tiles, or build the engine for larger sizes",
        )

    def describe(self) -> dict[str, Any]:
        """Version, sizes and layers."""
        return {
            self.flavour: self._trt.__version__,
            "input_dtype": self.input_dtype,
            "batches": list(self.batches),
            "engine_layers": self._engine.num_layers,
            "engine_memory_bytes": self._engine.device_memory_size_v2,
        }

    def close(self) -> None:
        """Let go of the engine, then of its runtime; contexts must be gone."""
        self._settings = self._engine = self._runtime = None

    def failure(self, doing: str) -> BackendError:
        """An error with what TensorRT said last."""
        said = "; ".join(self._messages.errors[-3:]) or "no reason given"
        if "out of memory" in said.lower() or "outofmemory" in said.lower():
            return cuda_error(f"{self.flavour}: {doing}", "CUDA_ERROR_OUT_OF_MEMORY", said)
        return BackendError(f"{self.flavour}: {doing} failed: {said}", hint=_REBUILD)

    def _require_tensors(self) -> None:
        engine, wanted = self._engine, {self.contract.input_name, self.contract.output_name}
        found = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if found != wanted:
            raise BackendError(
                f"the engine's tensors are {sorted(found)}, the contract's {sorted(wanted)}",
                hint="export and build again",
            )

    def _dtype(self, name: str) -> str:
        found = self._engine.get_tensor_dtype(name).name
        if found not in _DTYPES:
            raise BackendError(
                f"the engine's tensor '{name}' is {found}", hint=f"export it as one of {sorted(_DTYPES)}"
            )
        return _DTYPES[found]

    def _diagnostics(self, bits: int) -> list[str]:
        kinds = self._trt.EngineInvalidityDiagnostics
        names = [name for name in dir(kinds) if name.isupper()]
        return [name for name in names if int(getattr(kinds, name)) & int(bits)]

    def _runtime_settings(self) -> Any:
        """Our own graphs, not TensorRT's; final kernels at once, or a graph would freeze the slow first ones."""
        settings = self._engine.create_runtime_config()
        settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        cache = settings.create_runtime_cache()
        if not settings.set_runtime_cache(cache):
            raise self.failure("setting the cache of compiled kernels")
        return settings


class TrtContext:
    """An execution context: one stream, one shape at a time."""

    def __init__(self, owner: TrtEngine, context: Any) -> None:
        self._owner, self._context = owner, context

    def set_shape(self, shape: tuple[int, ...], stream: int) -> tuple[int, ...]:
        """Choose the profile and the input's shape; the output's shape."""
        profile = self._owner.profile_for(shape)
        context, contract = self._context, self._owner.contract
        if context.active_optimization_profile != profile and not context.set_optimization_profile_async(
            profile, stream
        ):
            raise self._owner.failure(f"choosing optimization profile {profile}")
        if not context.set_input_shape(contract.input_name, shape):
            raise self._owner.failure(f"setting the input's shape to {shape}")
        if missing := context.infer_shapes():
            raise self._owner.failure(f"working out the shapes of {', '.join(missing)}")
        output = tuple(context.get_tensor_shape(contract.output_name))
        if min(output) < 1:
            raise BackendError(f"the engine's output shape depends on the data: {output}", hint="export it otherwise")
        return output

    def is_capturable(self, stream: int) -> bool:
        """TensorRT for RTX can be asked; TensorRT says it by refusing the enqueue."""
        if self._owner.flavour == "tensorrt-rtx":
            return bool(self._context.is_stream_capturable(stream))
        return True

    def enqueue(self, source: int, target: int, stream: int) -> None:
        """Set the addresses and put the network on the stream; every answer is checked."""
        contract = self._owner.contract
        for name, address in ((contract.input_name, source), (contract.output_name, target)):
            if not self._context.set_tensor_address(name, address):
                raise self._owner.failure(f"setting the address of '{name}'")
        if not self._context.execute_async_v3(stream):
            raise self._owner.failure("enqueueing the engine")
