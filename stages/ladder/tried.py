"""ladder.json beside the rungs: which shares were chosen for which budget, so that a kill or a repeat goes on there."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from segpipe.documents import Form
from segpipe.errors import InputError
from segpipe.rundir.storage import read_bounded, write_atomically

FILE_NAME = "ladder.json"


class Tried(BaseModel):
    """The whole file. Times differ from one measurement to the next; what was begun because of one goes on."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    network: str
    """Key of the source's training: of another network nothing is known."""
    shares: dict[str, list[float]] = {}
    """By budget and backend, in the order in which they were tried."""


_FORM = Form("list of rungs", TypeAdapter(Tried), InputError, 1)


def tried(folder: Path, network: str) -> Tried:
    """What an earlier climb of the same network has chosen; nothing where there was none."""
    path = folder / FILE_NAME
    try:
        found = _FORM.read(read_bounded(path), str(path), "delete it: only the order of what was tried is lost")
    except FileNotFoundError:
        return Tried(network=network)
    return found if found.network == network else Tried(network=network)


def keep(folder: Path, found: Tried) -> None:
    """Before the work that it is about."""
    write_atomically(folder / FILE_NAME, found.model_dump_json(indent=1).encode() + b"\n")
