"""The page of commands, made from the command line's own definition."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from segpipe.cli import app

_WORDS = {Path: "PATH", Path | None: "PATH", int: "NUMBER", float: "NUMBER", tuple[int, int] | None: "NUMBER NUMBER"}


def commands_page() -> str:
    """Every command with its arguments and options."""
    parts = [
        "# Commands",
        "Made from the command line itself; `segpipe COMMAND --help` says the same. Results go to stdout, messages and "
        "progress to stderr. Exit codes: 0 done, 1 fix the input, 2 wrong usage, 3 the numbers differ (the release "
        "gate or a margin failed), 70 a bug, 130 Ctrl-C.",
    ]
    for words, command in commands():
        if not hasattr(command, "commands"):
            parts += _section(words, command)
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and group by the words that call it."""
    yield from _below("segpipe", typer.main.get_command(app))


def _below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _below(f"{words} {name}", inner)


def _section(words: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option"]
    shown = " ".join(_shown(one) for one in arguments)
    yield f"## {words}"
    yield f"`{' '.join(filter(None, (words, shown, '[OPTIONS]' * bool(options))))}`"
    yield "\n\n".join(" ".join(paragraph.split()) for paragraph in (command.help or "").split("\n\n"))
    rows = [f"| `{_shown(one)}` | {_help(one)} |" for one in arguments]
    types = get_type_hints(command.callback)
    rows += [f"| {_names(one, types[one.name])} | {_help(one)}{_standing(one)} |" for one in options]
    if rows:
        yield "\n".join(["| argument, option | what it is for |", "|---|---|", *rows])


def _shown(argument: Any) -> str:
    name = str(argument.metavar or argument.name).upper()
    several = f"{name}..." if argument.nargs == -1 and not argument.metavar else name
    return several if argument.required or several.startswith("[") else f"[{several}]"


def _names(option: Any, kind: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = "" if option.is_flag else option.metavar or "|".join(_choices(kind)) or _WORDS.get(kind, "TEXT")
    return f"{names} {value}".rstrip().replace("|", " \\| ")


def _choices(kind: Any) -> list[str]:
    """What a Literal allows, alone or beside None."""
    if get_origin(kind) is Literal:
        return list(map(str, get_args(kind)))
    return [choice for inner in get_args(kind) for choice in _choices(inner)]


def _help(parameter: Any) -> str:
    return str(parameter.help or "").replace("|", "\\|")


def _standing(option: Any) -> str:
    if option.required:
        return " **Needed.**"
    if option.is_flag:
        return " On unless told otherwise." if option.default is True else ""
    return "" if option.default is None else f" Default: `{option.default}`."
