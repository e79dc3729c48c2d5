"""segpipe: what production embeds. Importing it loads nothing heavy; names resolve on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segpipe import telemetry

if TYPE_CHECKING:
    from segpipe.contract.schema import Contract as Contract
    from segpipe.errors import SegpipeError as SegpipeError
    from segpipe.result import Result as Result
    from segpipe.rundir.directory import RunDirectory as RunDirectory
    from segpipe.runtime.request import Outputs as Outputs
    from segpipe.runtime.segmenter import Segmenter as Segmenter

telemetry.switch_off()  # before any library is imported, which is when they look

__version__ = "0.1.0"

_HOMES = {
    "Contract": "segpipe.contract.schema",
    "Outputs": "segpipe.runtime.request",
    "Result": "segpipe.result",
    "RunDirectory": "segpipe.rundir.directory",
    "SegpipeError": "segpipe.errors",
    "Segmenter": "segpipe.runtime.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segpipe' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
