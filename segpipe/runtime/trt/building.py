"""ONNX graphs to serialised engines, in either flavour."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from segpipe.errors import BuildError
from segpipe.runtime.trt import Flavour, load, logger

_COMPUTE_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")


@dataclass(frozen=True)
class ShapeRange:
    """NCHW (or NHWC) shapes of the one input that an engine takes."""

    smallest: tuple[int, ...]
    typical: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True)
class BuildRequest:
    """What to build from an ONNX graph."""

    onnx: bytes
    input_name: str
    shapes: ShapeRange
    compute_capabilities: Sequence[str] = ()


@dataclass(frozen=True)
class Layer:
    """One compute layer of the parsed network."""

    name: str
    kind: str
    dtype: str


@dataclass(frozen=True)
class Engine:
    """A serialised engine and what is known about its network."""

    plan: bytes
    layers: tuple[Layer, ...]
    warnings: tuple[str, ...] = field(default=())


def build_engine(flavour: Flavour, request: BuildRequest) -> Engine:
    """Parse the graph as a strongly typed network and build it."""
    trt = load(flavour)
    messages = logger(trt)
    builder = trt.Builder(messages)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(request.onnx):
        raise BuildError(
            f"{flavour} cannot parse the graph: {_parser_error(parser)}", hint="export with other operators"
        )
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    shapes = request.shapes
    profile.set_shape(request.input_name, shapes.smallest, shapes.typical, shapes.largest)
    config.add_optimization_profile(profile)
    if flavour == "tensorrt-rtx":
        _set_compute_capabilities(trt, config, request.compute_capabilities)
    layers = tuple(_compute_layers(network))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(
            f"{flavour} built nothing: {'; '.join(messages.errors) or 'no reason given'}", hint="read the log"
        )
    return Engine(bytes(plan), layers, tuple(messages.warnings))


def _compute_layers(network: Any) -> list[Layer]:
    """The layers that do the arithmetic, with the type of their output."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return [
        Layer(layer.name, layer.type.name, layer.get_output(0).dtype.name)
        for layer in layers
        if layer.type.name in _COMPUTE_LAYERS
    ]


def _set_compute_capabilities(trt: Any, config: Any, wanted: Sequence[str]) -> None:
    """Name the GPUs an RTX engine is for; without names it would be for the one in this machine."""
    names = [f"SM{capability.replace('.', '')}" for capability in wanted]
    known = sorted((name for name in dir(trt.ComputeCapability) if name.startswith("SM")), key=lambda n: int(n[2:]))
    if unknown := [name for name in names if name not in known]:
        raise BuildError(
            f"tensorrt-rtx {trt.__version__} does not build for {', '.join(unknown)}",
            hint=f"build.compute_capabilities may hold {', '.join(f'{name[2:-1]}.{name[-1]}' for name in known)}",
        )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, name), index):
            raise BuildError(f"tensorrt-rtx refused compute capability {name}", hint="leave it out")


def _parser_error(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return "; ".join(f"{error.node_name() or 'graph'}: {error.desc()}" for error in errors) or "no reason given"
