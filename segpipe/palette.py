"""The colours of a run's classes, as the file beside the network says them."""

from typing import Annotated

from pydantic import Field, TypeAdapter

from segpipe.contract.schema import InstanceContract, SemanticContract
from segpipe.documents import Form
from segpipe.errors import InputError
from segpipe.rundir.directory import RunDirectory

FILE_NAME = "palette.json"

_Level = Annotated[int, Field(ge=0, le=255, strict=True)]
Colour = tuple[_Level, _Level, _Level]
"""Red, green, blue."""
Colours = tuple[Colour, ...]
COLOURS: TypeAdapter[Colours] = TypeAdapter(Colours)
_FORM: Form[Colours] = Form("palette", COLOURS, InputError)


def read_palette(run: RunDirectory, stage: str, contract: SemanticContract | InstanceContract) -> Colours:
    """A colour (red, green, blue) for each class."""
    name, hint = f"{stage}/{FILE_NAME} of {run.path}", f"{stage} the network again"
    palette = _FORM.read(run.artifact_bytes(stage, FILE_NAME), name, hint)
    if len(palette) != len(contract.classes):
        raise InputError(f"{name} has {len(palette)} colours for {len(contract.classes)} classes", hint=hint)
    return palette
