"""quantisation.json of the export: what became of each layer in 8 bits, and of each graph that was made of them."""

from pydantic import BaseModel, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import SegpipeError

FILE_NAME = "quantisation.json"
PAGE_NAME = "quantisation.html"
"""The same for people."""


class QuantisedLayer(BaseModel):
    """One layer with weights; a reason says that it stays in floats."""

    node: str
    module: str = ""
    operator: str = ""
    input_range: tuple[float, float] | None = None
    noise_db: float | None = None
    """Of the scores with this layer alone in INT8; None where nobody asked."""
    kept_for_cpus: str = ""
    kept_for_engines: str = ""
    fp8_noise_db: float | None = None
    kept_for_fp8: str = ""
    quiet_channels: int = 0
    """Output channels whose weights are too small for an FP16 scale."""


class CalibrationFrames(BaseModel):
    """Which split, and how many frames of it."""

    split: str = ""
    calibrated: int = 0
    tried: int = 0


class TriedGraph(BaseModel):
    """One choice of layers: how many stay in floats, what was measured, and which limits it fails."""

    kept: int
    agreement: float
    worst_image: float
    miou_drop_upper: float | None = None
    """Upper end of the 95 % interval; None without labels."""
    failed: tuple[str, ...] = ()


class QuantisedGraph(BaseModel):
    """One file."""

    kept: int
    noise_db: float
    """Of the scores."""
    trials: tuple[TriedGraph, ...] = ()


class Quantisation(BaseModel):
    """The whole file."""

    schema_version: int = 1
    way: str
    calibration: str
    frames: CalibrationFrames = CalibrationFrames()
    basis: str
    """Hash of what a ranking rests on."""
    graphs: dict[str, QuantisedGraph]
    layers: tuple[QuantisedLayer, ...]


def form(error: type[SegpipeError]) -> Form[Quantisation]:
    """How quantisation.json is read, with the error of whoever reads it."""
    return Form("report of the export's quantisation", TypeAdapter(Quantisation), error)
