"""Rungs: runs of their own that begin with another run's network, and have other [compress] settings."""

import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from segpipe.artifacts import CHECKPOINT, EXPORT, FP32_GRAPH, UNPRUNED, UNQUANTISED
from segpipe.errors import ConfigError, GateFailedError, InputError
from segpipe.rundir.directory import TOML_NAME, RunDirectory
from segpipe.rundir.manifest import StageRecord
from segpipe.rundir.storage import explained_reads, explained_refusals, read_bounded, read_text_file, write_atomically
from segpipe.verdict import STAGE as GATE
from stages.config.file import apply_override, load_config
from stages.ladder.source import WRITTEN, Source
from stages.ladder.training import announced
from stages.pipeline import Selection, run_stages

_PATHS = (("data", "root"), ("model", "weights"), ("model", "trained"), ("compress", "distil", "teacher"))
"""Settings that are paths from the run's folder."""
_BEFORE = (UNPRUNED, UNQUANTISED, CHECKPOINT, FP32_GRAPH)
"""Files of a network's stage: the first that is there is what the rung began with."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rung:
    """One step down: the name of its folder, and its settings in [compress]."""

    name: str
    settings: Mapping[str, Any]


def made(rung: Rung, source: Source, folder: Path, builds: bool) -> RunDirectory:
    """The rung's run with its verdicts; what of it is there already is not made again."""
    path = folder / rung.name
    _refuse_strangers(path, source)
    with explained_refusals(str(path)):
        path.mkdir(exist_ok=True)
    _write_settings(path, source, rung)  # first of all: whose the folder is must be told after any kill
    run = RunDirectory.create(path)
    _begin_with(source, run)
    _log.info("compress: %s", path)
    config = load_config(path)
    if (ahead := announced(rung.name, source, RunDirectory(path), config)) is not None:
        _log.info("compress: %s", ahead)
    first = "train" if config.retrained else EXPORT  # what is not to be trained is not, whatever the settings say
    run_stages(path, config, path, Selection(first, "build" if builds else EXPORT))
    try:
        return run_stages(path, config, path, Selection(GATE, GATE))
    except GateFailedError as error:  # a rung like any other, which is not kept
        _log.warning("compress: %s: %s", path, error.message)
        return RunDirectory(path)


def _write_settings(path: Path, source: Source, rung: Rung) -> None:
    """The source's, with paths that lead from here, and with the rung's own in [compress]."""
    base = source.run.path
    content = tomllib.loads(read_text_file(base / TOML_NAME, ConfigError))
    for override in source.overrides:
        apply_override(content, override)
    for *tables, key in _PATHS:
        table = content
        for name in tables:
            table = table.get(name, {})
        if isinstance(value := table.get(key), str) and (base / value).exists():
            table[key] = _from(path, base / value)
    content["compress"] = {**content.get("compress", {}), **rung.settings}
    for name in ("devices", "nodes"):  # other processes would begin the whole ladder again
        content.get("train", {}).pop(name, None)
    head = f"{_head(source)}{_network(source)}{_place(source, path)}\n"
    write_atomically(path / TOML_NAME, (head + tomli_w.dumps(content)).encode())
    for module in base.glob("*.py"):  # networks and losses of one's own may lie beside the run
        write_atomically(path / module.name, module.read_bytes())


def _from(path: Path, target: Path) -> str:
    """Relative, so that the rung and the run can move together."""
    return os.path.relpath(target.resolve(), path.resolve())


def _begin_with(source: Source, run: RunDirectory) -> None:
    """Commit the source's network here as it was committed there, unless this rung has made its own from it."""
    stage = source.origin

    def read() -> tuple[StageRecord, dict[str, bytes]]:
        record = source.run.record(stage)
        return record, {name: source.run.artifact_bytes(stage, name) for name in record.outputs}

    record, files = source.run.at_one_moment(read)
    if (own := run.manifest.stages.get(stage)) is not None and _alike(own, record):
        return
    forced = RunDirectory(run.path, frozenset({stage}))
    with forced.step(stage, record.inputs, record.params) as step:
        for name, data in files.items():
            step.path(name).write_bytes(data)
        step.contract_sha256 = source.run.manifest.contract_sha256
        step.figures, step.environment = record.figures, record.environment


def _alike(own: StageRecord, other: StageRecord) -> bool:
    """Whether the rung's network was made from the other, whatever was cut or rounded after it."""
    began, given = (next(record.outputs[name] for name in _BEFORE if name in record.outputs) for record in (own, other))
    return own.inputs == other.inputs and began == given


def _head(source: Source) -> str:
    """How a rung's settings begin."""
    return f"{WRITTEN}{_plain(source.run.path.resolve().name)}: the next one writes it anew."


def _network(source: Source) -> str:
    return f" Network {source.record.key}"


def _place(source: Source, rung: Path) -> str:
    return f" of {_plain(_from(rung, source.run.path))}."


def _plain(name: str) -> str:
    """What no comment in TOML may hold, such as a line's end, is spelt out."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)


def _is_for(source: Source, rung: Path) -> bool:
    """Whether a rung's settings were written for this network, or for what this run held before it was trained again.

    Older settings name neither; what the rung began with does.
    """
    first, head = read_bounded(rung / TOML_NAME).partition(b"\n")[0], _head(source).encode()
    if first == head:
        own = RunDirectory.create(rung).manifest.stages.get(source.origin)
        return own is None or _alike(own, source.record)
    known = _network(source).encode(), _place(source, rung).encode()
    return first.startswith(head) and (first.startswith(head + known[0] + b" ") or first.endswith(known[1]))


def _refuse_strangers(path: Path, source: Source) -> None:
    """What somebody else keeps under this name, or another run's ladder, is not written over or into."""
    with explained_reads(path):
        try:
            ours = _is_for(source, path)
        except FileNotFoundError:
            ours = not path.is_dir() or all(inside.name.startswith(".") for inside in path.iterdir())  # or a file
        if not ours:
            raise InputError(
                f"{path} is not from `segpipe compress` for this run", hint="name another folder with --out"
            )
