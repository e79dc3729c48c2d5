"""Serialised engines to masks' scores: deserialising, execution contexts and enqueueing, in either flavour."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segpipe.contract.schema import FrameContract
from segpipe.errors import BackendError
from segpipe.runtime.cuda.device import cuda_error
from segpipe.runtime.cuda.engine import Profile, Shape
from segpipe.runtime.request import BuiltFor
from segpipe.runtime.trt import Flavour, load, logger
from segpipe.runtime.trt.kernel_cache import KernelCache
from segpipe.runtime.trt.preflight import refuse_invalid
from segpipe.tasks import task_of

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT32": "int32", "INT64": "int64"}
_REBUILD = "run `segpipe build` on this machine"


class TrtEngine:
    """A deserialised engine with the contract's input and its task's outputs. The context must be current.

    `kernels`: where TensorRT for RTX keeps what it compiles.
    """

    def __init__(
        self, flavour: Flavour, plan: bytes, contract: FrameContract, built: BuiltFor, kernels: Path | None = None
    ) -> None:
        self.flavour, self.contract = flavour, contract
        self._trt = load(flavour)
        self._messages = logger(self._trt)
        self._outputs = task_of(contract).outputs
        self._runtime: Any = self._trt.Runtime(self._messages)
        if flavour == "tensorrt-rtx":
            validity, diagnostics = self._runtime.get_engine_validity(plan)
            refuse_invalid(validity.name, self._reasons(diagnostics), built)
        # A version-compatible plan brings its own runtime. Its bytes were hashed before they came here.
        self._runtime.engine_host_code_allowed = built.version_compatible
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self.failure("deserialising the engine")
        self._require_tensors()
        self.input_dtype = self._dtype(contract.input_name)
        self.output_dtypes = {name: self._dtype(name) for name in self._outputs}
        profiles = range(self._engine.num_optimization_profiles)
        shapes = [self._engine.get_tensor_profile_shape(contract.input_name, index) for index in profiles]
        self.profiles = [Profile(tuple(smallest), tuple(largest)) for smallest, _, largest in shapes]
        self._cache: KernelCache | None = None
        self._settings = self._runtime_settings(kernels) if flavour == "tensorrt-rtx" else None

    def context(self) -> "TrtContext":
        """An execution context. Its user gives it memory for activations."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._settings or strategy)
        if context is None:
            raise self.failure("making an execution context")
        return TrtContext(self, context)

    def describe(self) -> dict[str, Any]:
        """Version, sizes and layers."""
        return {
            self.flavour: self._trt.__version__,
            "input_dtype": self.input_dtype,
            "engine_layers": self._engine.num_layers,
            "engine_memory_bytes": self._engine.device_memory_size_v2,
        }

    def close(self) -> None:
        """Keep what was compiled, let go of the engine, then of its runtime; contexts must be gone."""
        if self._cache is not None:
            self._cache.store()
        self._cache = self._settings = self._engine = self._runtime = None

    def failure(self, doing: str) -> BackendError:
        """An error with what TensorRT said since the last one."""
        said = self._messages.take_errors()
        if "out of memory" in said.lower() or "outofmemory" in said.lower():
            return cuda_error(f"{self.flavour}: {doing}", "CUDA_ERROR_OUT_OF_MEMORY", said)
        return BackendError(f"{self.flavour}: {doing} failed: {said}", hint=_REBUILD)

    def _require_tensors(self) -> None:
        engine, wanted = self._engine, {self.contract.input_name, *self._outputs}
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

    def _reasons(self, bits: int) -> str:
        """TensorRT's diagnostics by name, and its own words."""
        kinds = self._trt.EngineInvalidityDiagnostics
        names = [name for name in dir(kinds) if name.isupper() and int(getattr(kinds, name)) & int(bits)]
        return ", ".join([*(name.lower() for name in sorted(names)), self._messages.take_errors()])

    def _runtime_settings(self, kernels: Path | None) -> Any:
        """Our own graphs, not TensorRT's; final kernels at once, or a graph would freeze the slow first ones."""
        settings = self._engine.create_runtime_config()
        settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        settings.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = settings.create_runtime_cache()
        if kernels is not None:
            self._cache = KernelCache(cache, kernels)
        if not settings.set_runtime_cache(cache):
            raise self.failure("setting the cache of compiled kernels")
        return settings


class TrtContext:
    """An execution context: one stream, one shape at a time."""

    def __init__(self, owner: TrtEngine, context: Any) -> None:
        self._owner, self._context = owner, context
        self.scratch_bytes = 0

    def set_shape(self, shape: Shape, stream: int) -> dict[str, Shape]:
        """Choose the profile and the input's shape; the outputs' shapes."""
        profile = next(index for index, profile in enumerate(self._owner.profiles) if profile.takes(shape))
        context, contract = self._context, self._owner.contract
        if context.active_optimization_profile != profile and not context.set_optimization_profile_async(
            profile, stream
        ):
            raise self._owner.failure(f"choosing optimization profile {profile}")
        if not context.set_input_shape(contract.input_name, shape):
            raise self._owner.failure(f"setting the input's shape to {shape}")
        if missing := context.infer_shapes():
            raise self._owner.failure(f"working out the shapes of {', '.join(missing)}")
        outputs = {name: tuple(context.get_tensor_shape(name)) for name in self._owner.output_dtypes}
        for name, output in outputs.items():
            if min(output, default=1) < 1:
                message = f"the shape of the engine's output '{name}' depends on the data: {output}"
                raise BackendError(message, hint="export it otherwise")
        self.scratch_bytes = int(context.update_device_memory_size_for_shapes())
        return outputs

    def is_capturable(self, stream: int) -> bool:
        """TensorRT for RTX can be asked; TensorRT says it by refusing the enqueue."""
        if self._owner.flavour == "tensorrt-rtx":
            return bool(self._context.is_stream_capturable(stream))
        return True

    def enqueue(self, source: int, targets: Mapping[str, int], scratch: int, stream: int) -> None:
        """Set the addresses and put the network on the stream; every answer is checked."""
        if self.scratch_bytes:
            self._context.set_device_memory(scratch, self.scratch_bytes)
        for name, address in ((self._owner.contract.input_name, source), *targets.items()):
            if not self._context.set_tensor_address(name, address):
                raise self._owner.failure(f"setting the address of '{name}'")
        if not self._context.execute_async_v3(stream):
            raise self._owner.failure("enqueueing the engine")
