"""What is wrong with a config in plain words: pydantic's errors -> a message and the next action."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from stages.config.losses import OWN
from stages.config.root import Config

_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list, as in [1, 2]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "string_pattern_mismatch": "package.module:factory",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
    "too_short": "{min_length} or more values",
    "too_long": "{max_length} or fewer values",
}
"""What was wanted, by pydantic's name of the error."""
_SHOWN = 80  # characters of a value
_CHANGE = "change it in the file or with --set"


def worded(errors: Sequence[ErrorDetails]) -> tuple[str, str]:
    """The first thing wrong as a message and the next action; a choice that fails everywhere is one thing."""
    error = errors[0]
    names, models = _place(error["loc"])
    name = ".".join(names)
    match error["type"]:
        case "extra_forbidden":
            return _unknown_key(names, _place(error["loc"][:-1])[1])
        case "union_tag_invalid" | "union_tag_not_found":
            return _unknown_kind(name, error["input"], _kinds(models))
        case "missing" if names[-1].isdecimal():
            return f"{'.'.join(names[:-1])} = {_shown(error['input'])}: wanted more values", _CHANGE
        case "missing":
            return f"'{name}' is missing", "add it, or start from a template: segpipe new DIR --template folder"
        case "value_error":
            return (f"[{name}] " if name else "") + error["msg"].removeprefix("Value error, "), _CHANGE
    deepest = max(
        (_place(other["loc"])[0] for other in errors), key=lambda found: (found[: len(names)] == names, len(found))
    )
    alike = [other for other in errors if _place(other["loc"])[0] == deepest]
    wanted = " or ".join(dict.fromkeys(map(_wanted, alike)))
    return f"{'.'.join(deepest)} = {_shown(alike[0]['input'])}: wanted {wanted}", _CHANGE


def _wanted(error: ErrorDetails) -> str:
    words = _WORDS.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else error["msg"].removeprefix("Input should be ")


def _unknown_key(names: list[str], models: Sequence[Any]) -> tuple[str, str]:
    known = [key for model in models if _is_table(model) for key in _fields(model)]
    near = difflib.get_close_matches(names[-1], known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
    return f"unknown key '{'.'.join(names)}'", hint


def _unknown_kind(name: str, value: Any, kinds: list[str]) -> tuple[str, str]:
    if not isinstance(value, dict):
        return f"{name} = {_shown(value)}: wanted a table with a kind", f"kind is one of: {', '.join(kinds)}"
    if "kind" not in value:
        return f"'{name}.kind' is missing", f"use one of: {', '.join(kinds)}"
    near = difflib.get_close_matches(str(value["kind"]), kinds, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"use one of: {', '.join(kinds)}"
    return f"{name}.kind = {_shown(value['kind'])} is not a known kind", hint


def _place(location: Sequence[int | str]) -> tuple[list[str], list[Any]]:
    """The names in the file, and the types allowed there. pydantic's own marks, as which kind of data, are no names."""
    names: list[str] = []
    types: list[Any] = [Config]
    for part in location:
        tagged = [kind for kind in types if part in _kinds([kind])] if len(types) > 1 else []
        fields = [_fields(kind)[part] for kind in types if _is_table(kind) and part in _fields(kind)]
        if tagged:
            types = tagged
        elif fields:
            names, types = [*names, str(part)], [leaf for field in fields for leaf in _leaves(field)]
        elif isinstance(part, int) or any(_is_table(kind) for kind in types):
            names = [*names, str(part)]
    return names, types


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types that a value, or an entry of a list of values, may have."""
    if get_origin(annotation) is Annotated:
        yield from _leaves(get_args(annotation)[0])
    elif get_origin(annotation) in {None, Literal}:
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _leaves(argument)


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Types of a table's keys, as the file writes them."""
    return {field.alias or key: field.annotation for key, field in model.model_fields.items()}


def _kinds(models: Sequence[Any]) -> list[str]:
    """The values of `kind` that tell these tables apart."""
    fields = [_fields(model)["kind"] for model in models if _is_table(model) and "kind" in _fields(model)]
    return [kind for field in fields for kind in (get_args(field) if get_origin(field) is Literal else (OWN,))]


def _shown(value: Any) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # Python prints no number of more than 4300 digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
