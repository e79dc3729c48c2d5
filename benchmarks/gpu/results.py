"""results.json of the GPU suite: its schema, and writing it after every step."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segpipe.errors import InputError
from segpipe.rundir.storage import write_atomically

FILE_NAME = "results.json"
SCHEMA_FILE = Path(__file__).with_name("results.schema.json")

State = Literal["passed", "failed", "timed out", "not run"]


class StepResult(BaseModel):
    """What came of one step. `detail` is the reason when it did not pass."""

    model_config = ConfigDict(extra="forbid")

    state: State
    seconds: float
    detail: str = ""
    figures: dict[str, Any] = {}


class SuiteResult(BaseModel):
    """The whole file: the machine, the versions, and every step by name."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    started_utc: str
    machine: dict[str, Any] = {}
    steps: dict[str, StepResult] = {}


def load(folder: Path) -> SuiteResult | None:
    """What an earlier call left, so that the suite can go on."""
    path = folder / FILE_NAME
    if not path.exists():
        return None
    try:
        return SuiteResult.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(f"{path} is no result of this suite: {error.errors()[0]['msg']}", hint="delete it") from None


def save(folder: Path, result: SuiteResult) -> None:
    """Replace the file: whatever happens next, what was found stays."""
    write_atomically(folder / FILE_NAME, result.model_dump_json(indent=2).encode() + b"\n")


def schema_text() -> str:
    """The published JSON schema."""
    return json.dumps(SuiteResult.model_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text())
