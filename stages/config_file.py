"""Reads segpipe.toml and --set overrides, and words what is wrong with them."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from segpipe import manifest
from segpipe.errors import ConfigError
from segpipe.rundir import TOML_NAME
from segpipe.storage import explained_reads
from stages.config import Config
from stages.draft import draft_contract

FILE_NAME = TOML_NAME


def load_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run: RUN/segpipe.toml (or the TOML file itself), then `table.key=value` overrides."""
    path = run if run.suffix == ".toml" else run / FILE_NAME
    try:
        with explained_reads(path):
            text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if (path.parent / manifest.FILE_NAME).is_file():
            raise ConfigError(
                f"{path.parent} has no {path.name}",
                hint=f"a bundle has none: name its run, or judge it with `segpipe validate {path.parent} --hop engine`",
            ) from None
        raise ConfigError(f"{path} does not exist", hint=f"write one with `segpipe new {path.parent}`") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from None
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}", hint="mend that line") from None
    for override in overrides:
        _apply(content, override)
    return parse_config(content, str(path))


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate a whole config, or name the first thing wrong, the nearest known key and what is allowed."""
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        message, hint = _worded(first)
        raise ConfigError(f"{source}: {message}", hint=hint) from None
    try:
        draft_contract(config)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {problem}", hint="change [input], [data] or [train] output") from None
    return config


def _apply(content: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {override} is not key=value", hint="write for example --set train.epochs=3")
    *tables, key = name.strip().split(".")
    table = content
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is not a table", hint="name table.key")
    try:
        table[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[key] = text.strip()  # an unquoted string


def _worded(error: ErrorDetails) -> tuple[str, str]:
    """One pydantic error as a message and the next action."""
    where = [str(part) for part in error["loc"] if not _is_tag(error["loc"], part)]
    name = ".".join(where)
    if error["type"] == "extra_forbidden":
        known = _known_keys(list(error["loc"][:-1]))
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"unknown key '{name}'", hint
    if error["type"] == "missing":
        return f"'{name}' is missing", "add it, or start from a template: segpipe new DIR --template folder"
    wanted = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"].startswith("union_tag"):
        kinds = ", ".join(_kinds())
        return f"{name}.kind is not a known kind of data", f"use one of: {kinds}"
    return f"{name} = {error['input']!r}: {wanted}", "change it in the file or with --set"


def _is_tag(location: tuple[int | str, ...], part: int | str) -> bool:
    """pydantic puts the kind of data into the path: data.shapes.height."""
    return len(location) > 1 and location[0] == "data" and part == location[1] and part in _kinds()


def _kinds() -> list[str]:
    return [kind.model_fields["kind"].annotation.__args__[0] for kind in _data_models()]


def _data_models() -> tuple[Any, ...]:
    return get_args(Config.model_fields["data"].annotation)


def _known_keys(location: list[int | str]) -> list[str]:
    """Names allowed in the table at this place."""
    model: Any = Config
    for part in location:
        if part == "data":
            continue
        if isinstance(part, int):  # an entry of a list of tables
            model = next(kind for kind in get_args(model) if isinstance(kind, type))
            continue
        kinds = dict(zip(_kinds(), _data_models(), strict=True))
        if model is Config and part in kinds and location[0] == "data":
            model = kinds[str(part)]
            continue
        fields = {(field.alias or key): field for key, field in model.model_fields.items()}
        model = fields[str(part)].annotation
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or key for key, field in model.model_fields.items()]
