"""Every known error in the words of the source: what `raise SomeError(message, hint=...)` says, found by reading it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from segpipe import errors

ROOT = Path(__file__).parents[2]
VALUE = "…"
"""What stands where the message names a value."""

_PACKAGES = ("segpipe", "stages")
_KNOWN: dict[str, type[errors.SegpipeError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.SegpipeError)
}


@dataclass(frozen=True)
class Message:
    """One place that raises: the error's name, its words and its advice."""

    error: str
    text: str
    hint: str


def messages() -> list[Message]:
    """All of them, each once, sorted by error and words."""
    found = {message for path in sources() for message in _of_file(path)}
    return sorted(found, key=lambda message: (message.error, message.text.lstrip(VALUE + " '")))


def sources() -> Iterator[Path]:
    """The files whose words reach a user."""
    for package in _PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def errors_page() -> str:
    """A table for each kind of error."""
    parts = [
        "# Every error message",
        f"Found by reading the source; {VALUE} stands for a value. An error is one line on stderr, `error: message. "
        "advice`; in Python it is an exception below `segpipe.SegpipeError` with `message`, `hint` and `exit_code`. "
        "[The common ones, explained](../troubleshooting.md).",
    ]
    all_of_them = messages()
    for name, kind in _KNOWN.items():
        base = ", ".join(one.__name__ for one in kind.__bases__)
        parts += [f"## {name}", f"{kind.__doc__} Also a `{base}`; exit code {kind.exit_code}."]
        rows = [f"| {_cell(one.text)} | {_cell(one.hint)} |" for one in all_of_them if one.error == name]
        if rows:
            parts.append("\n".join(["| message | advice |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _of_file(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _KNOWN and node.args:
            hint = next((word.value for word in node.keywords if word.arg == "hint"), None)
            text = template(node.args[0])
            if re.search(r"\w", text):
                yield Message(node.func.id, text, template(hint) if hint is not None else "")


def template(node: ast.expr) -> str:
    """A text with its values left out."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
    if isinstance(node, ast.IfExp):
        return f"{template(node.body)} / {template(node.orelse)}"
    return VALUE


def _cell(text: str) -> str:
    """Text in a table, to be shown as it is."""
    words = " ".join(text.split())
    for char in "\\*_[]<|":
        words = words.replace(char, f"\\{char}" if char != "<" else "&lt;")
    return words
