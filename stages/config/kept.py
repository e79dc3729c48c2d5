"""What `--set` gave the last training: whether a command without it would train again, and keeping it in the file."""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segpipe.errors import ConfigError, SegpipeError
from segpipe.rundir import manifest
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.freshness import changed_values
from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.storage import read_text_file, write_atomically
from stages.config.file import apply_override, load_config

_TRAINING = ("data", "input", "model", "train")
_WHERE_CHOSEN = ("task", "compress.")
"""Of the tables that are there only where something of them was chosen: how their names begin."""
_HEADER = re.compile(r"\s*\[")


@dataclass(frozen=True)
class Forgotten:
    """Settings of the last training that were given by --set and are not given now."""

    overrides: tuple[str, ...]
    changes: tuple[str, ...]
    """What training again would change, as `train.epochs 2 -> 20`."""


def forgotten(run: Path, overrides: Sequence[str]) -> Forgotten | None:
    """What a training with these overrides would undo; None when it would not run, or not for want of --set."""
    if not (run / manifest.FILE_NAME).is_file():
        return None
    rundir = RunDirectory(run)
    record, before = rundir.manifest.stages.get("train"), rundir.trained_with()
    if record is None or not before or list(overrides) == list(before):
        return None
    trained = _tables(record)
    changes = changed_values(trained, load_config(run, overrides).training())
    try:
        made_so = load_config(run, [*before, *overrides]).training() == trained
    except SegpipeError:
        return None  # the file has changed so much that the old settings fit no more
    return Forgotten(tuple(before), tuple(changes)) if changes and made_so else None


def _tables(record: StageRecord) -> dict[str, Any]:
    """What a training was given, as `Config.training` tells it."""
    chosen = {name: table for name, table in record.params.items() if name.startswith(_WHERE_CHOSEN)}
    return {name: record.params.get(name, {}) for name in _TRAINING} | chosen


def keep(run: Path, overrides: Sequence[str]) -> None:
    """Write overrides into the run's segpipe.toml, whose other lines, comments and line ends stay."""
    path = run / TOML_NAME
    text = read_text_file(path, ConfigError)
    for override in overrides:
        text = _with_setting(text, override, path)
    write_atomically(path, text.encode())


def _with_setting(text: str, override: str, path: Path) -> str:
    """The text with one setting changed or added; refused where that would change anything else."""
    wanted = tomllib.loads(text)
    apply_override(wanted, override)
    *tables, key = override.partition("=")[0].strip().split(".")
    value: Any = wanted
    for part in (*tables, key):
        value = value[part]
    changed = _edited(text, ".".join(tables), f"{key} = {_written(value)}")
    if _parsed(changed) != wanted:
        hint = f"write it there by hand: [{'.'.join(tables)}] {key} = {_written(value)}"
        raise ConfigError(f"{path}: there is no simple place for {override}", hint=hint)
    return changed


def _edited(text: str, table: str, setting: str) -> str:
    """In its table's place: instead of the key's line, else under the header, else in a new table at the end."""
    dotted = r"\s*\.\s*".join(map(re.escape, table.split(".")))
    header = re.compile(rf"\s*\[\s*{dotted}\s*\]\s*(#.*)?\s*")
    end = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    first = next((number for number, line in enumerate(lines) if header.fullmatch(line)), None)
    if first is None:
        return end.join(["".join(lines), f"[{table}]", setting, ""])
    key = re.compile(rf"\s*{re.escape(setting.partition(' =')[0])}\s*=")
    for number in range(first + 1, len(lines)):
        if _HEADER.match(lines[number]):
            break
        if key.match(lines[number]):
            lines[number] = setting + _comment(lines[number].rstrip("\r\n")) + end
            return "".join(lines)
    return "".join([*lines[: first + 1], setting + end, *lines[first + 1 :]])


def _comment(line: str) -> str:
    """The comment at the end of a setting's line, with the space before it."""
    for place in (match.start() for match in re.finditer(r"\s*#", line)):
        if (whole := _parsed(line)) is not None and _parsed(line[:place]) == whole:
            return line[place:]
    return ""


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _written(value: Any) -> str:
    """A value as TOML; what this cannot write, the check of the whole file finds."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{json.dumps(key)} = {_written(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
