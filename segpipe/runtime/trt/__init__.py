"""TensorRT in both flavours: the one package that imports `tensorrt` or `tensorrt_rtx` and knows how they differ."""

import importlib
import importlib.util
import logging
from collections import deque
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from typing import Any, Literal

from segpipe.errors import BackendMissingError

Flavour = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_BINDINGS = "_bindings"  # what wheels bring; pip builds the module itself, so it is missing where wheels were copied
_BUILDS = ("", "_cu13_bindings", "_cu12_bindings")
_INSTALL = "pip install 'segpipe[rtx]' (no GPU needed to build) or pip install 'segpipe[tensorrt]' (on the GPU)"
_LEVELS = {0: logging.ERROR, 1: logging.ERROR, 2: logging.DEBUG, 3: logging.DEBUG, 4: logging.DEBUG}
_KEPT = 200  # messages: a build tells more warnings than anybody reads

_log = logging.getLogger(__name__)


def is_installed(flavour: Flavour) -> bool:
    """Whether the flavour's package is there; does not import it."""
    return importlib.util.find_spec(_module(flavour)) is not None


def installed_version(flavour: Flavour) -> str | None:
    """The installed package's version; does not import it."""
    for build in _BUILDS:
        try:
            return distribution_version(_MODULES[flavour] + build)
        except PackageNotFoundError:
            continue
    return None


def load(flavour: Flavour) -> Any:
    """The flavour's module, or an error with both pip lines."""
    try:
        return importlib.import_module(_module(flavour))
    except ImportError as error:
        raise BackendMissingError(f"{flavour} cannot be imported: {error}", hint=_INSTALL) from error


def version(flavour: Flavour) -> str:
    """Version of the installed flavour."""
    found: str = load(flavour).__version__
    return found


def logger(trt: Any, quiet: bool = False) -> Any:
    """TensorRT's messages through `logging`; the latest warnings and errors are kept until somebody takes them.

    `quiet`: errors are logged as details, because the caller raises them.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base exists only when TensorRT is installed
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=_KEPT)
            self.warnings: deque[str] = deque(maxlen=_KEPT)

        def log(self, severity: Any, msg: str) -> None:
            level = int(severity)
            if level <= 1:
                self.errors.append(msg)
            elif level == 2:
                self.warnings.append(msg)
            _log.log(logging.DEBUG if quiet else _LEVELS[level], "%s", msg)

        def take_errors(self) -> str:
            """What went wrong since this was last asked, in one line."""
            said = "; ".join(self.errors)
            self.errors.clear()
            return said or "no reason given"

    return Logger()


def _module(flavour: Flavour) -> str:
    name = _MODULES[flavour]
    return next((found for found in (name, name + _BINDINGS) if importlib.util.find_spec(found)), name)
