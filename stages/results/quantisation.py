"""quantisation.json of the export, as far as others read it: what became of each layer in INT8."""

from typing import Any

from pydantic import BaseModel, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import SegpipeError

FILE_NAME = "quantisation.json"


class QuantisedLayer(BaseModel):
    """One layer with weights; a reason says that it stays in floats."""

    node: str
    module: str = ""
    operator: str = ""
    input_range: tuple[float, float] | None = None
    noise_db: float | None = None
    kept_for_cpus: str = ""
    kept_for_engines: str = ""
    quiet_channels: int = 0


class Quantisation(BaseModel):
    """The whole file."""

    way: str
    calibration: str
    basis: str
    frames: dict[str, Any]
    graphs: dict[str, dict[str, Any]]
    layers: tuple[QuantisedLayer, ...]


def form(error: type[SegpipeError]) -> Form[Quantisation]:
    """How quantisation.json is read, with the error of whoever reads it."""
    return Form("report of the export's quantisation", TypeAdapter(Quantisation), error)
