"""Reads segpipe.toml and --set overrides, and words what is wrong with them."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segpipe.errors import ConfigError, word
from segpipe.rundir import manifest
from segpipe.rundir.directory import TOML_NAME
from segpipe.rundir.storage import read_text_file
from stages.config.draft import draft_contract
from stages.config.root import Config
from stages.config.words import worded

FILE_NAME = TOML_NAME

_DEPTH = 32  # of tables and lists in each other
_BITS = "whole numbers are those of 64 bits"


def load_config(run: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a run: RUN/segpipe.toml (or the TOML file itself), then `table.key=value` overrides."""
    path = run if run.suffix == ".toml" else run / FILE_NAME
    try:
        text = read_text_file(path, ConfigError)
    except FileNotFoundError:
        if (path.parent / manifest.FILE_NAME).is_file() and manifest.load(path.parent).is_bundle:
            raise ConfigError(
                f"{path.parent} is a bundle, which has no config ({path.name})",
                hint="give the run that the bundle was made from",
            ) from None
        raise ConfigError(f"{path} does not exist", hint=f"write one with `segpipe new {word(path.parent)}`") from None
    content = parse_toml(text, str(path))
    for override in overrides:
        apply_override(content, override)
    refuse_extremes(content, str(path))
    return parse_config(content, str(path))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is not TOML: {error}", hint="correct that line") from None
    except ValueError:
        raise ConfigError(f"{source} holds a number of thousands of digits", hint=_BITS) from None
    except RecursionError:
        raise ConfigError(f"{source} nests tables or lists too deep", hint=f"nest at most {_DEPTH}") from None
    return content


def parse_config(content: dict[str, Any], source: str) -> Config:
    """Validate a whole config, or name the first thing wrong, the nearest known key and what is allowed."""
    try:
        config = Config.model_validate(content)
    except ValidationError as error:
        message, hint = worded(error.errors(include_url=False))
        raise ConfigError(f"{source}: {message}", hint=hint) from None
    try:
        draft_contract(config)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {problem}", hint="change [input], [data], [task] or [train] output") from None
    return config


def refuse_extremes(content: dict[str, Any], source: str) -> None:
    """TOML promises 64-bit numbers, and nobody's options nest deeper than a few tables."""
    level: list[Any] = [content]
    for _ in range(_DEPTH + 1):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if any(isinstance(value, int) and not -(2**63) <= value < 2**63 for value in level):
            raise ConfigError(f"{source} holds a whole number beyond 64 bits", hint=_BITS)
    if level:
        raise ConfigError(f"{source} nests tables or lists too deep", hint=f"nest at most {_DEPTH}")


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one `table.key=value` in the tables of a TOML file."""
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
    except (ValueError, RecursionError):
        raise ConfigError(f"--set {name.strip()}: its value is too large to be one", hint=_BITS) from None
