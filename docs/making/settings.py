"""Pages of settings, made from the pydantic models: every key of segpipe.toml, every field of the contract."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from segpipe.contract.schema import CONTRACTS
from stages.config.root import Config

_HEAD = "| key | value | default | what it is for |\n|---|---|---|---|"


def settings_page() -> str:
    """Every table and key of segpipe.toml."""
    parts = [
        "# segpipe.toml",
        "Made from the models that read the file. A key that is not here is an error, which names the nearest one. "
        "`--set table.key=value` overrides one for one command.",
    ]
    for name, field in Config.model_fields.items():
        parts += _table(field.alias or name, field, 2)
    return "\n\n".join(parts) + "\n"


def contract_page() -> str:
    """Every field of the contract, for each task that a network can be for."""
    parts = [
        "# The contract's fields",
        "Made from the model. `segpipe import --contract contract.toml` reads these; for a trained network they come "
        "from `[data]`, `[input]` and the network itself. [What a contract is for](../concepts/contract.md).",
    ]
    for task, model in CONTRACTS.items():
        parts += [f"## {task}", _sentence(model), *_rows(model)]
    return "\n\n".join(parts) + "\n"


def _table(path: str, field: FieldInfo, level: int) -> Iterator[str]:
    """One table of the file: a heading, what it is for, its keys, then the tables inside it."""
    models = list(_models(field.annotation))
    yield f"{'#' * level} `[{path}]`"
    for model in models:
        kind = _kind(model)
        if kind:
            yield f"{'#' * (level + 1)} kind = {kind}"
        yield _sentence(model)
        yield from _rows(model)
        for name, inner in model.model_fields.items():
            if next(_models(inner.annotation), None) is not None:
                yield from _table(f"{path}.{inner.alias or name}", inner, level + 1)


def _rows(model: type[BaseModel]) -> Iterator[str]:
    said = {name: text for part in reversed(model.__mro__) for name, text in _field_docs(part).items()}
    rows = [
        f"| `{field.alias or name}` | {_allowed(field)} | {_default(field)} | {said.get(name, '')} |"
        for name, field in model.model_fields.items()
        if name != "kind" and next(_models(field.annotation), None) is None
    ]
    if rows:
        yield "\n".join(['<div class="stacked" markdown>\n', _HEAD, *rows, "\n</div>"])


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a type: of a union each, of a list what it holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _kind(model: type[BaseModel]) -> str:
    """What tells this model from its neighbours in a union."""
    field = model.model_fields.get("kind")
    return "" if field is None else _allowed(field)


def _sentence(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _field_docs(model: type) -> dict[str, str]:
    """What stands in quotes below each field of a class."""
    found = {}
    body = _classes(model.__module__).get(model.__name__, [])
    for field, below in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(below.value.value).split()).replace("|", "\\|")
    return found


@cache
def _classes(module: str) -> dict[str, list[ast.stmt]]:
    """The statements of each class of a module."""
    source = Path(getattr(sys.modules[module], "__file__", None) or "")
    if source.suffix != ".py":
        return {}
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}


def _allowed(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    for extra in field.metadata:
        annotation = Annotated[annotation, extra]
    return in_words(TypeAdapter(annotation).json_schema()).replace("|", "\\|")


def in_words(schema: dict[str, Any]) -> str:
    """A JSON schema as a reader would say it."""
    if "const" in schema:
        return f"`{_toml(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{_toml(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(in_words(one) for one in schema["anyOf"] if one.get("type") != "null")
    if schema.get("type") == "array":
        return _list_in_words(schema)
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
    return words.get(str(schema.get("type")), "table") + _range_in_words(schema)


def _list_in_words(schema: dict[str, Any]) -> str:
    if items := schema.get("prefixItems"):
        return "[" + ", ".join(in_words(item) for item in items) + "]"
    least = f", {schema['minItems']} or more" if "minItems" in schema else ""
    return f"list of {in_words(schema.get('items', {}))}{least}"


def _range_in_words(schema: dict[str, Any]) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]:g}" for name, sign in signs.items() if name in schema and schema[name] < 2**60]
    return f" {', '.join(limits)}" if limits else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**needed**"
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined:
        return ""
    return f"`{_toml(TypeAdapter(type(value)).dump_python(value, mode='json'))}`"


def _toml(value: Any) -> str:
    """A value as the file would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + " }" if value else "{}"
    return f"{value:g}" if isinstance(value, float) else str(value)
