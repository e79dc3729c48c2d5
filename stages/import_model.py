"""Stage `import`: somebody else's ONNX and a contract.toml -> a run directory that every later stage works on."""

import json
import logging
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segpipe.contract import Contract
from segpipe.errors import ContractError, InputError
from segpipe.rundir import RunDirectory
from segpipe.storage import sha256_of_bytes, write_atomically
from stages.config_file import FILE_NAME
from stages.data import known
from stages.environment import versions

STAGE = "import"
VERSION = 1

_log = logging.getLogger(__name__)
_NO_DATA = (
    '# No [data] was given: point root at your images and masks to validate, and then set fp32_islands to "auto".'
)


@dataclass(frozen=True)
class Description:
    """What contract.toml says: the contract's own fields, and beside them a palette and where data lies."""

    contract: Contract
    palette: tuple[tuple[int, int, int], ...]
    data: dict[str, Any] | None


def run(path: Path, model: Path, contract: Path) -> Path:
    """Start (or refresh) the run directory `path`, and write a segpipe.toml for the later stages if there is none."""
    from stages.graphs.foreign import adopted_apart

    described = read_description(contract)
    graph = adopted_apart(model, described.contract)
    rundir = RunDirectory.create(path)
    if "train" in rundir.manifest.stages:
        raise InputError(f"{path} holds a trained network", hint="import into a run directory of its own")
    inputs = {"model": sha256_of_bytes(graph), "contract": described.contract.sha256}
    with rundir.step(STAGE, inputs, {"stage_version": VERSION, "palette": described.palette}) as step:
        if step.stale:
            step.path("model.onnx").write_bytes(graph)
            step.path("contract.json").write_text(described.contract.to_json())
            step.path("palette.json").write_text(json.dumps(described.palette))
            step.contract_sha256 = described.contract.sha256
            step.environment |= versions("onnx")
    if not (path / FILE_NAME).exists():
        write_atomically(path / FILE_NAME, _starter(described, contract.parent, path).encode())
    return rundir.artifact(STAGE, "model.onnx")


def read_description(path: Path) -> Description:
    """Parse contract.toml, or name the first thing wrong with it."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(f"{path} does not exist", hint="see the README for what a contract.toml holds") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} is not TOML: {error}", hint="mend that line") from None
    data, palette = content.pop("data", None), content.pop("palette", None)
    try:
        contract = Contract.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "contract"
        allowed = ", ".join((*Contract.model_fields, "palette", "[data]"))
        hint = f"known here: {allowed}" if first["type"] == "extra_forbidden" else "change it"
        raise ContractError(f"{path}: {name}: {first['msg']}", hint=hint) from None
    return Description(contract, _palette(palette, contract, path), data)


def _palette(given: Any, contract: Contract, path: Path) -> tuple[tuple[int, int, int], ...]:
    colours = given if given is not None else known.distinct_colours(len(contract.classes))
    if len(colours) != len(contract.classes) or any(len(colour) != 3 for colour in colours):
        raise ContractError(
            f"{path}: palette has {len(colours)} colours for {len(contract.classes)} classes",
            hint="give one [red, green, blue] a class, or leave it out",
        )
    return tuple((int(r), int(g), int(b)) for r, g, b in colours)


def _starter(described: Description, home: Path, run: Path) -> str:
    """segpipe.toml: [data] as given, [input] as the contract says."""
    contract = described.contract
    data: dict[str, Any] = {"kind": "folder", "root": "data", "classes": list(contract.classes)}
    data["ignore_index"] = contract.ignore_index
    if described.data is not None:
        data = dict(described.data)
        if "root" in data:  # relative to contract.toml there, to segpipe.toml here
            data["root"] = os.path.relpath(home / data["root"], run)
    names = ("fit", "channels", "channel_order", "dtype", "value_range", "mean", "std")
    frames = contract.model_dump(mode="json", include=set(names))
    if contract.network_size is not None:
        frames |= {"height": contract.network_size[0], "width": contract.network_size[1]}
    islands = "auto" if described.data is not None else "weights"
    tables = {"data": data, "input": frames, "export": {"fp32_islands": islands}}
    if described.data is None:
        _log.warning("import: no [data] in the contract: activations are not probed, and validate has no frames")
    lines = [] if described.data is not None else [_NO_DATA]
    for table, values in tables.items():
        lines += [f"[{table}]", *(f"{key} = {_toml(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Plain values as TOML; JSON's strings, numbers, booleans and lists are TOML already."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
