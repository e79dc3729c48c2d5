"""TensorRT in both flavours: the one file that imports `tensorrt` or `tensorrt_rtx` and knows how they differ."""

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from segpipe.errors import BackendMissingError, BuildError

Flavour = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_INSTALL = "pip install 'segpipe[rtx]' (no GPU needed to build) or pip install 'segpipe[tensorrt]' (on the GPU)"
_COMPUTE_LAYERS = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY")
_LEVELS = {0: logging.ERROR, 1: logging.ERROR, 2: logging.DEBUG, 3: logging.DEBUG, 4: logging.DEBUG}

_log = logging.getLogger(__name__)


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


def is_installed(flavour: Flavour) -> bool:
    """Whether the flavour's package is there; does not import it."""
    return importlib.util.find_spec(_MODULES[flavour]) is not None


def load(flavour: Flavour) -> Any:
    """The flavour's module, or an error with both pip lines."""
    try:
        return importlib.import_module(_MODULES[flavour])
    except ImportError as error:
        raise BackendMissingError(f"{flavour} cannot be imported: {error}", hint=_INSTALL) from error


def version(flavour: Flavour) -> str:
    """Version of the installed flavour."""
    found: str = load(flavour).__version__
    return found


def build_engine(flavour: Flavour, request: BuildRequest) -> Engine:
    """Parse the graph as a strongly typed network and build it."""
    trt = load(flavour)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
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
            f"{flavour} built nothing: {'; '.join(logger.errors) or 'no reason given'}", hint="read the log"
        )
    return Engine(bytes(plan), layers, tuple(logger.warnings))


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


def _logger(trt: Any) -> Any:
    """TensorRT's messages through `logging`; warnings and errors are kept for the record."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base exists only when TensorRT is installed
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level <= 1:
                self.errors.append(msg)
            elif level == 2:
                self.warnings.append(msg)
            _log.log(_LEVELS[level], "%s", msg)

    return Logger()
