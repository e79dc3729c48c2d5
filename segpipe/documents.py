"""JSON that a run holds or a stranger sends: one parser, one typed line where it is not what this version reads."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, from_json

from segpipe.errors import SegpipeError

UPGRADE = "upgrade segpipe: pip install -U segpipe"

_T = TypeVar("_T")
_SCHEMA_FIELDS = ("schema", "schema_version", "version")
_NEWER = frozenset({"extra_forbidden", "literal_error", "union_tag_invalid"})
"""What a field or a value that a later version added looks like here."""
_SHOWN = 80  # characters of a name that somebody else chose


@dataclass(frozen=True)
class Form(Generic[_T]):
    """What a kind of document must be, and the error that says it is not.

    A later version raises the document's schema number (a list has none: its later form is an object that has one), or
    adds fields and values, which are refused here; either way the hint is to upgrade.
    """

    what: str
    adapter: TypeAdapter[_T]
    error: type[SegpipeError]
    schema: int = 1

    def read(self, data: str | bytes, name: str, hint: str) -> _T:
        """Parse a document; `name` is the subject of its errors, `hint` the way out where it is no newer one."""
        content = plain_json(data, name, self.error, hint)
        fields = content if isinstance(content, dict) else {}
        for found in (fields.get(field) for field in _SCHEMA_FIELDS):
            if isinstance(found, int) and found > self.schema:
                raise self.error(f"{name} has schema {found}, this segpipe reads up to {self.schema}", hint=UPGRADE)
        try:
            return self.adapter.validate_json(data)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)
            if newer := next((entry for entry in found if entry["type"] in _NEWER), None):
                message = f"{name} was written by another version of segpipe, or edited: {_plain(newer)}"
                raise self.error(message, hint=f"{UPGRADE}; otherwise {hint}") from None
            raise self.error(f"{name} is not a {self.what}: {_plain(found[0])}", hint=hint) from None


def plain_json(data: str | bytes, name: str, error: type[SegpipeError], hint: str) -> Any:
    """Any JSON: of bounded depth and digits, and no text that cannot be written again."""
    try:
        return from_json(data)
    except ValueError as reason:
        raise error(f"{name} is not JSON ({reason}); it was cut off or edited", hint=hint) from None


def _plain(error: ErrorDetails) -> str:
    """Where and why, in one line."""
    where = ".".join(map(str, error["loc"])) or "the whole file"
    return f"{_printable(where)}: {_printable(error['msg'])}"


def _printable(text: str) -> str:
    shown = text if text.isprintable() else repr(text)
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
