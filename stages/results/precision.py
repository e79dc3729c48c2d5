"""precision.json of the export, as far as later stages read it: what stays in FP32."""

from pydantic import BaseModel, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import SegpipeError


class RecordedIsland(BaseModel):
    """A part that stays in FP32."""

    module: str = ""
    node: str


class Precision(BaseModel):
    """The whole file."""

    islands: tuple[RecordedIsland, ...]


def form(error: type[SegpipeError]) -> Form[Precision]:
    """How precision.json is read, with the error of whoever reads it."""
    return Form("report of the export's precision", TypeAdapter(Precision), error)
