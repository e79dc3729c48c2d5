"""ONNX graphs to serialised engines, in either flavour."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from segpipe.errors import BuildError
from segpipe.runtime.cuda.driver_library import gpu_name
from segpipe.runtime.trt import Flavour, load, logger

Compatibility = Literal["none", "ampere-plus", "same-compute-capability"]

_COMPUTE_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_NODE = "[ONNX Layer: "


@dataclass(frozen=True)
class ShapeRange:
    """NCHW (or NHWC) shapes of the one input that an engine takes: one optimisation profile."""

    smallest: tuple[int, ...]
    typical: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class BuildRequest:
    """What to build from an ONNX graph, and how. `timing_cache`: None is without, empty starts one."""

    onnx: bytes
    input_name: str
    shapes: Sequence[ShapeRange]
    compute_capabilities: Sequence[str] = ()
    """For TensorRT for RTX; none means this machine's GPU, or where there is none what RTX takes by itself."""
    workspace_bytes: int | None = None
    optimization_level: int = 3
    hardware_compatibility: Compatibility = "none"
    version_compatible: bool = False
    timing_cache: bytes | None = None


class Progress(Protocol):
    """Told of TensorRT's phases, which nest; called from its build."""

    def start(self, phase: str, parent: str | None, steps: int) -> None: ...
    def go_on(self, phase: str, step: int) -> bool:
        """A step is done; False cancels the build."""
        ...

    def finish(self, phase: str) -> None: ...


@dataclass(frozen=True)
class Layer:
    """One compute layer of the parsed network, and the ONNX node it came from."""

    name: str
    kind: str
    dtype: str
    node: str
    quantised: bool = False
    """Whether both factors come from 8 bits. The type of the result does not tell: it is what follows them."""


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine and what is known about its network."""

    plan: bytes
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...] = ()
    workspace_bytes: int = 0
    """Limit that the builder worked under."""
    timing_cache: bytes | None = None


@dataclass(frozen=True)
class Problem:
    """One thing the parser refused."""

    node: str
    operator: str
    reason: str


class GraphRefusedError(BuildError):
    """TensorRT's parser cannot read the graph; `problems` says where."""

    def __init__(self, message: str, problems: Sequence[Problem], *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class BuildCancelledError(BuildError):
    """Progress said to stop."""


def build_engine(flavour: Flavour, request: BuildRequest, progress: Progress | None = None) -> BuiltEngine:
    """Parse the graph as a strongly typed network and build it."""
    trt = load(flavour)
    messages = logger(trt, quiet=True)
    builder = trt.Builder(messages)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)  # owns what the network refers to: it must outlive the build
    if not parser.parse(request.onnx):
        problems = _problems(parser)
        told = "; ".join(f"{p.node or 'graph'}: {p.reason}" for p in problems) or "no reason given"
        raise GraphRefusedError(
            f"{flavour} cannot parse the graph: {told}", problems, hint="export with other operators"
        )
    config = builder.create_builder_config()
    _add_profiles(builder, config, request)
    _configure(trt, config, request, flavour)
    cache = _start_timing_cache(config, request)
    monitor = _monitor(trt, progress) if progress is not None else None
    if monitor is not None:
        config.progress_monitor = monitor
    layers = tuple(_compute_layers(network))
    plan = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.cancelled:
        raise BuildCancelledError(f"the {flavour} build was cancelled", hint="run the same command again")
    if plan is None:
        raise BuildError(f"{flavour} built nothing: {messages.take_errors()}", hint="read the log (-v)")
    workspace = config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE)
    stored = bytes(config.get_timing_cache().serialize()) if cache is not None else None
    return BuiltEngine(bytes(plan), layers, tuple(messages.warnings), workspace, stored)


def _add_profiles(builder: Any, config: Any, request: BuildRequest) -> None:
    for shapes in request.shapes:
        profile = builder.create_optimization_profile()
        profile.set_shape(request.input_name, shapes.smallest, shapes.typical, shapes.largest)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(
                f"TensorRT takes no shapes {shapes.smallest} to {shapes.largest} for input '{request.input_name}'",
                hint="change build.profiles",
            )


def _configure(trt: Any, config: Any, request: BuildRequest, flavour: Flavour) -> None:
    """Everything that has a flag."""
    config.builder_optimization_level = request.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the engine inspector can tell layers' types
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    if flavour == "tensorrt-rtx":
        _set_compute_capabilities(trt, config, request.compute_capabilities)
        return
    levels = trt.HardwareCompatibilityLevel
    config.hardware_compatibility_level = {
        "none": levels.NONE,
        "ampere-plus": levels.AMPERE_PLUS,
        "same-compute-capability": levels.SAME_COMPUTE_CAPABILITY,
    }[request.hardware_compatibility]
    if request.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _start_timing_cache(config: Any, request: BuildRequest) -> Any:
    """What was measured before; one made by another version or GPU, or damaged, is dropped."""
    if request.timing_cache is None:
        return None
    for data in (request.timing_cache, b""):
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base exists only when TensorRT is installed
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.cancelled = self.cancelled or not progress.go_on(phase_name, step)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def _compute_layers(network: Any) -> list[Layer]:
    """The layers that do the arithmetic, with the type of their output."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantised = {layer.get_output(0).name for layer in layers if layer.type.name == "DEQUANTIZE"}
    return [
        Layer(layer.name, layer.type.name, layer.get_output(0).dtype.name, _node_of(layer), _reads(layer, dequantised))
        for layer in layers
        if layer.type.name in _COMPUTE_LAYERS
    ]


def _reads(layer: Any, tensors: Set[str]) -> bool:
    """Whether both of a layer's factors are among those tensors."""
    factors = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
    return len(factors) == 2 and all(factor is not None and factor.name in tensors for factor in factors)


def _node_of(layer: Any) -> str:
    """The parser writes the ONNX node's name into a layer's metadata."""
    _, found, rest = layer.metadata.partition(_NODE)
    name: str = rest.partition("]")[0] if found else layer.name
    return name


def _set_compute_capabilities(trt: Any, config: Any, wanted: Sequence[str]) -> None:
    """Name the GPUs an RTX engine is for. `CURRENT` asks the GPU, so without one nothing is named."""
    names = [f"SM{capability.replace('.', '')}" for capability in wanted]
    known = sorted((name for name in dir(trt.ComputeCapability) if name.startswith("SM")), key=lambda n: int(n[2:]))
    if unknown := [name for name in names if name not in known]:
        raise BuildError(
            f"tensorrt-rtx {trt.__version__} does not build for {', '.join(unknown)}",
            hint=f"build.compute_capabilities may hold {', '.join(f'{name[2:-1]}.{name[-1]}' for name in known)}, or "
            "nothing on a machine with the GPU",
        )
    if not names and gpu_name() is not None:
        names = ["CURRENT"]
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise BuildError(f"tensorrt-rtx does not take compute capability {name}", hint="leave it out")


def _problems(parser: Any) -> list[Problem]:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return [Problem(error.node_name() or "", error.node_operator() or "", _reason(error)) for error in errors]


def _reason(error: Any) -> str:
    """A failed check of the parser may describe itself as `false`."""
    told: str = error.desc().strip()
    return told if told not in {"", "false", "0"} else f"not supported ({error.code().name.lower()})"
