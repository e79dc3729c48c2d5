"""The kernels as Python calls: their argument structures (twins of those in kernels.cu), and picking their code."""

import contextlib
import ctypes
from collections.abc import Mapping

from segpipe.errors import BackendError
from segpipe.runtime.cuda.compiling import CAPABILITIES, PTX, compile_kernel
from segpipe.runtime.cuda.device import BLOCK, Device

PIXELS = 4  # a thread does four neighbouring pixels of a row
KINDS = {"logits": 0, "probabilities": 1, "sigmoid": 2, "labels": 3}

_pointer, _int, _float = ctypes.c_uint64, ctypes.c_int32, ctypes.c_float


class PreArguments(ctypes.Structure):
    """Frames to the network's input."""

    _fields_ = (
        ("source", _pointer), ("target", _pointer), ("rows", _pointer), ("columns", _pointer),
        ("scale", _pointer), ("shift", _pointer),
        ("height", _int), ("width", _int), ("channels", _int), ("canvas_height", _int), ("canvas_width", _int),
        ("nhwc", _int), ("reversed", _int), ("padding_", _int),
    )  # fmt: skip


class ScoreArguments(ctypes.Structure):
    """The network's output to masks."""

    _fields_ = (
        ("scores", _pointer), ("labels", _pointer), ("mask", _pointer), ("confidence", _pointer),
        ("rows", _pointer), ("columns", _pointer),
        ("height", _int), ("width", _int), ("channels", _int), ("mask_height", _int), ("mask_width", _int),
        ("nhwc", _int), ("kind", _int), ("limit", _float),
    )  # fmt: skip


class PackArguments(ctypes.Structure):
    """One frame with any strides to a packed one."""

    _fields_ = (
        ("source", _pointer), ("target", _pointer),
        ("row_bytes", ctypes.c_int64), ("column_bytes", ctypes.c_int64), ("channel_bytes", ctypes.c_int64),
        ("height", _int), ("width", _int), ("channels", _int), ("padding_", _int),
    )  # fmt: skip


class BlendArguments(ctypes.Structure):
    """One tile's scores into the band that tiles share."""

    _fields_ = (
        ("scores", _pointer), ("band", _pointer), ("row_weights", _pointer), ("column_weights", _pointer),
        ("height", _int), ("width", _int), ("channels", _int), ("band_height", _int), ("band_width", _int),
        ("top", _int), ("left", _int), ("nhwc", _int),
    )  # fmt: skip


class Kernels:
    """Loaded machine code. The context must be current when it is made, used and closed."""

    def __init__(self, device: Device, images: Mapping[str, bytes]) -> None:
        self._device = device
        self._module = device.load_module(pick_image(images, device.capability))
        self._functions: dict[str, int] = {}

    def pre(self, source: str, target: str, batch: int, arguments: PreArguments, stream: int) -> None:
        """Frames of one dtype to an input of another."""
        columns, rows = _columns(arguments.canvas_width), _rows(arguments.canvas_height)
        self._launch(f"pre_{source}_{target}", (columns, rows, batch), arguments, stream)

    def mask(self, scores: str, mask: str, batch: int, arguments: ScoreArguments, stream: int) -> None:
        """Scores to masks: first each score vector's winner, then the blend where neighbours disagree."""
        grid = (_columns(arguments.mask_width), _rows(arguments.mask_height), batch)
        if arguments.kind == KINDS["labels"]:
            self._launch(f"nearest_{scores}_{mask}", grid, arguments, stream)
            return
        cells = (-(-arguments.width // BLOCK[0]), _rows(arguments.height), batch)
        self._launch(f"label_{scores}_{mask}", cells, arguments, stream)
        self._launch(f"mask_{scores}_{mask}", grid, arguments, stream)

    def pack(self, itemsize: int, arguments: PackArguments, stream: int) -> None:
        """Gather one strided frame."""
        grid = (-(-arguments.width // BLOCK[0]), _rows(arguments.height), 1)
        self._launch(f"pack_{itemsize}", grid, arguments, stream)

    def blend(self, scores: str, arguments: BlendArguments, stream: int) -> None:
        """Add one tile's weighted scores to the band."""
        grid = (-(-arguments.width // BLOCK[0]), _rows(arguments.height), arguments.channels)
        self._launch(f"blend_{scores}", grid, arguments, stream)

    def close(self) -> None:
        """Unload; twice is harmless."""
        if self._module:
            module, self._module = self._module, 0
            with contextlib.suppress(BackendError):  # a lost device refuses, and has forgotten it anyway
                self._device.unload_module(module)

    def _launch(self, name: str, grid: tuple[int, int, int], arguments: ctypes.Structure, stream: int) -> None:
        if name not in self._functions:
            self._functions[name] = self._device.function(self._module, name)
        self._device.launch(self._functions[name], grid, bytes(arguments), stream)


def pick_image(images: Mapping[str, bytes], capability: tuple[int, int]) -> bytes:
    """Machine code for this compute capability or an older one of its generation, else PTX, else compiled now."""
    major, minor = capability
    for lower in range(minor, -1, -1):
        if image := images.get(f"kernels.sm_{major}{lower}.cubin"):
            return image
    if image := images.get("kernels.ptx"):
        return image
    if images:
        raise BackendError(
            f"there are no kernels for compute capability {major}.{minor} among {', '.join(sorted(images))}",
            hint="run `segpipe build` again",
        )
    return _compiled_now(f"{major}{minor}")


def _compiled_now(capability: str) -> bytes:
    return compile_kernel(capability if capability in CAPABILITIES else PTX)


def _columns(width: int) -> int:
    return -(-width // (BLOCK[0] * PIXELS))


def _rows(height: int) -> int:
    return -(-height // BLOCK[1])
