"""Stage `import`: somebody else's ONNX and a contract.toml -> a run directory that every later stage works on."""

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from segpipe.artifacts import FP32_GRAPH
from segpipe.contract.schema import CONTRACTS, AnyContract, FrameContract, InstanceContract, SemanticContract
from segpipe.errors import ContractError, InputError
from segpipe.installed import versions
from segpipe.palette import COLOURS, Colours
from segpipe.rundir.directory import RunDirectory
from segpipe.rundir.storage import read_text_file, sha256_of_bytes, write_atomically
from stages.config.file import FILE_NAME, parse_config, parse_toml, refuse_extremes
from stages.data import known, labels_of
from stages.data.agreeing import refuse_other_classes
from stages.graphs.facts import Facts
from stages.graphs.presets import contract_fields, remarks

STAGE = "import"
VERSION = 1

_log = logging.getLogger(__name__)
_NO_DATA = (
    '# No [data] was given: point root at your images and masks to validate, and then set fp32_islands to "auto".'
)

_OF_THINGS = {"masks_are": "ids"}


@dataclass(frozen=True)
class Description:
    """What contract.toml says: the contract's own fields, and beside them a palette and where data lies."""

    contract: AnyContract
    palette: Colours
    data: dict[str, Any] | None


@dataclass(frozen=True)
class Chosen:
    """A preset, and what the file tells of itself."""

    name: str
    facts: Facts

    def __str__(self) -> str:
        return self.name


def run(path: Path, model: Path, contract: Path | None, preset: Chosen | None = None) -> Path:
    """Start (or refresh) the run directory `path`, and write a segpipe.toml for the later stages if there is none."""
    from stages.graphs.foreign import adopted_apart

    described = read_description(contract, preset)
    lacks_toml = not (path / FILE_NAME).exists()
    home, source = (model.parent, f"preset {preset}") if contract is None else (contract.parent, str(contract))
    starter = _starter(described, home, path, source) if lacks_toml else None
    graph = adopted_apart(model, described.contract)
    rundir = RunDirectory.create(path)
    if "train" in rundir.manifest.stages:
        raise InputError(f"{path} holds a trained network", hint="import into a run directory of its own")
    inputs = {"model": sha256_of_bytes(graph), "contract": described.contract.sha256}
    with rundir.step(STAGE, inputs, {"stage_version": VERSION, "palette": described.palette}) as step:
        if step.stale:
            step.path(FP32_GRAPH).write_bytes(graph)
            step.path("contract.json").write_text(described.contract.to_json())
            step.path("palette.json").write_text(json.dumps(described.palette))
            step.contract_sha256 = described.contract.sha256
            step.environment |= versions("onnx")
    if starter is not None:
        write_atomically(path / FILE_NAME, starter.encode())
        if described.data is None:
            _log.warning("import: no [data] in the contract: activations are not probed, and validate has no frames")
    elif _classes_in(path / FILE_NAME) not in {None, described.contract.classes}:
        _log.warning("import: %s is kept, and its classes are not the contract's: mend or delete it", path / FILE_NAME)
    return rundir.artifact(STAGE, FP32_GRAPH)


def _classes_in(toml: Path) -> tuple[str, ...] | None:
    """What a segpipe.toml that is kept says of its data's classes, if it does."""
    data = _toml_of(toml).get("data")
    classes = data.get("classes") if isinstance(data, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, list) else None


def read_description(path: Path | None, preset: Chosen | None = None) -> Description:
    """What contract.toml says, over what a preset says, or the first thing that is wrong with it."""
    content = {} if path is None else _toml_of(path)
    kind = _kind(content.pop("task", SemanticContract.task), path)
    if preset is not None and kind is not SemanticContract:
        raise ContractError(f"preset '{preset}' is for masks", hint="leave --preset out, and describe every output")
    if preset is not None:
        content = contract_fields(preset.name, preset.facts, content)
        for line in remarks(preset.name, content):
            _log.info("preset %s: %s", preset, line)
    path = path or Path(f"preset {preset}")
    data, palette = content.pop("data", None), content.pop("palette", None)
    if not isinstance(data, dict | None):
        raise ContractError(f"{path}: data = {data!r} is not a table", hint="write [data] and its settings below it")
    if data is not None and "unscored" in data:
        content.setdefault("unscored", data["unscored"])
    try:
        contract = kind.model_validate(content)
    except ValidationError as error:
        raise _wrong(path, (), error, kind) from None
    return Description(contract, _palette(palette, contract, path), data)


def _kind(task: Any, path: Path | None) -> type[SemanticContract | InstanceContract]:
    """The type of a task's contract."""
    kind = CONTRACTS.get(task) if isinstance(task, str) else None
    if kind is SemanticContract or kind is InstanceContract:
        return kind
    raise ContractError(f"{path}: task = {task!r:.60} is none of {', '.join(CONTRACTS)}", hint="leave it out for masks")


def _toml_of(path: Path) -> dict[str, Any]:
    try:
        text = read_text_file(path, ContractError)
    except FileNotFoundError:
        raise ContractError(f"{path} does not exist", hint="see docs/tutorials/trained-network.md") from None
    content = parse_toml(text, str(path))
    refuse_extremes(content, str(path))
    return content


def _wrong(
    path: Path, place: tuple[str, ...], error: ValidationError, kind: type[FrameContract] = SemanticContract
) -> ContractError:
    first = error.errors(include_input=False)[0]
    name = ".".join(map(str, (*place, *first["loc"]))) or "contract"
    allowed = ", ".join((*kind.model_fields, "task", "palette", "[data]"))
    hint = f"known here: {allowed}" if first["type"] == "extra_forbidden" else "change it"
    return ContractError(f"{path}: {name}: {first['msg']}", hint=hint)


def _palette(given: Any, contract: AnyContract, path: Path) -> Colours:
    try:
        colours = known.distinct_colours(len(contract.classes)) if given is None else COLOURS.validate_python(given)
    except ValidationError as error:
        raise _wrong(path, ("palette",), error) from None
    if len(colours) != len(contract.classes):
        raise ContractError(
            f"{path}: palette has {len(colours)} colours for {len(contract.classes)} classes",
            hint="give one [red, green, blue] a class, or leave it out",
        )
    return colours


def _starter(described: Description, home: Path, run: Path, source: str) -> str:
    """segpipe.toml: [data] as given, [input] as the contract says; refused where later stages could not read it."""
    contract = described.contract
    data: dict[str, Any] = {"kind": "folder", "root": "data", "classes": list(contract.classes)}
    data |= _OF_THINGS if isinstance(contract, InstanceContract) else {"ignore_index": contract.ignore_index}
    if described.data is not None:
        data = dict(described.data)
        if data.get("kind") == "folder":
            data.setdefault("classes", list(contract.classes))
        if isinstance(data.get("root"), str):  # relative to contract.toml there, to segpipe.toml here
            data["root"] = os.path.relpath(home / data["root"], run)
    if contract.unscored:
        data["unscored"] = list(contract.unscored)
    names = ("fit", "channels", "channel_order", "dtype", "value_range", "mean", "std")
    frames = contract.model_dump(mode="json", include=set(names))
    if contract.network_size is not None:
        frames |= {"height": contract.network_size[0], "width": contract.network_size[1]}
    islands = "auto" if described.data is not None else "weights"
    tables = {"data": data, "input": frames, "export": {"fp32_islands": islands}}
    if isinstance(contract, InstanceContract):
        told = {"kind": contract.task, "things": list(contract.things), "top": contract.top}
        tables["task"] = told | {"threshold": contract.threshold}
    refuse_other_classes(contract, labels_of(parse_config(tables, source)), source)
    return ("" if described.data is not None else f"{_NO_DATA}\n") + tomli_w.dumps(tables)
