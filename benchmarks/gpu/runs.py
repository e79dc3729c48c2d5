"""Runs that the suite's steps make and share: the demo's, and those of networks with random weights."""

from pathlib import Path

from segpipe.errors import NotValidatedError
from segpipe.runtime import trt
from segpipe.runtime.segmenter import Segmenter

_FLAVOURS: tuple[trt.Flavour, ...] = ("tensorrt", "tensorrt-rtx")


def installed_targets() -> list[str]:
    """`--set` arguments that build for every flavour installed here, and for this very GPU."""
    targets = [flavour for flavour in _FLAVOURS if trt.is_installed(flavour)]
    return [f"build.targets={targets}", "build.compute_capabilities=[]"]


def engine_backends(run: Path) -> list[str]:
    """The engines of a run that open here, best first; unjudged ones too."""
    found: list[str] = []
    for name in _FLAVOURS:
        if trt.is_installed(name):
            try:
                Segmenter.open(run, name, allow_unvalidated=True).close()
            except (FileNotFoundError, NotValidatedError):
                continue
            found.append(name)
    return found
