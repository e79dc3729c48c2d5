"""Reads files of weights: safetensors and pickles, which never run code. Owns what counts as weights."""

import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segpipe.errors import InputError

_SAVE = "save a state_dict (torch.save(network.state_dict(), path) or safetensors)"
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, OverflowError, MemoryError,
)  # fmt: skip
"""What torch's reader of pickles raises on damaged ones, as 6,000 of them showed."""
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "weights", "params_ema", "params")
_DEEPEST = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in PyTorch's messages


@dataclass(frozen=True)
class WeightsFile:
    """What a file holds."""

    tensors: Mapping[str, Tensor]
    inside: str
    """The keys under which they lie in a checkpoint, as 'state_dict'; empty where the file is a state dict itself."""
    beside: tuple[str, ...]
    """What else the checkpoint holds."""


def read_weights(path: Path, setting: str) -> WeightsFile:
    """The tensors of a file; `setting` names it in errors. Pickles are opened with `weights_only`: they run no code."""
    content = _content(path, setting)
    inside: list[str] = []
    beside: list[str] = []
    while len(inside) < _DEEPEST and isinstance(content, Mapping):
        name = next((name for name in _NESTED if isinstance(content.get(name), Mapping)), None)
        if name is None:
            break
        inside.append(name)
        beside += [str(key) for key in content if key != name]
        content = content[name]
    if not isinstance(content, Mapping):
        raise InputError(
            f"{setting}: {path.name} holds a {type(content).__name__}, wanted names and tensors", hint=_SAVE
        )
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{setting}: {path.name} holds no tensors by name", hint=_SAVE)
    return WeightsFile(tensors, ".".join(inside), tuple(beside))


def refuse_no_weights(found: Tensor, own: Tensor, source: str) -> None:
    """Numbers that fit by name and shape alone."""
    if found.is_meta:
        problem = "has no values (device 'meta')"
    elif found.is_quantized or found.layout != torch.strided:
        problem = f"is {found.dtype} in layout {found.layout}, wanted a dense tensor"
    elif found.is_complex() or (own.is_floating_point() and not found.is_floating_point()):
        problem = f"is {found.dtype}, the network's is {own.dtype}"
    elif found.is_floating_point() and bool(found.isnan().any()):
        problem = "holds NaN"
    else:
        return
    raise InputError(f"{source} {problem}", hint=_SAVE.replace("save a", "save a trained"))


def _content(path: Path, setting: str) -> Any:
    try:
        as_tensors = path.suffix == ".safetensors" or _is_safetensors(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Validating sparse tensor")  # they are refused later
            return load_file(path) if as_tensors else torch.load(path, "cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = _COLOURS.sub("", str(error)).partition("\n")[0]
        raise InputError(f"{setting}: {path.name} cannot be read as weights: {reason}", hint=_SAVE) from error


def _is_safetensors(path: Path) -> bool:
    """By its first bytes: a length, and the JSON it is the length of."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size
