"""A trained network that describes itself, as a file. Written by train, read by every later stage."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors.torch import load, save
from torch import Tensor, nn

from segpipe.artifacts import CHECKPOINT
from segpipe.contract.schema import AnyContract, read_any
from segpipe.documents import Form
from segpipe.errors import ConfigError, ContractError
from segpipe.palette import Colours
from stages.config.root import ModelConfig
from stages.models import build_for
from stages.models.pruned import reshaped_to

FILE_NAME = CHECKPOINT
_MOST_HEADER_BYTES = 100 << 20  # what safetensors itself allows
_KEY = "segpipe"  # one key: safetensors does not keep the order of several, and files must be reproducible


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, with what it needs to be used."""

    network: nn.Module
    contract: AnyContract
    palette: Colours
    pruned: bool = False
    """Whether its channels are others than its factory makes."""


def to_bytes(trained: Trained, model: ModelConfig) -> bytes:
    """Weights and description as one file's bytes; equal weights give equal bytes."""
    description = {
        "contract": json.loads(trained.contract.to_json()),
        "model": model.model_dump(mode="json", exclude={"weights", "trained"}),  # their file is in the record
        "palette": trained.palette,
        **({"pruned": True} if trained.pruned else {}),
    }
    data: bytes = save(_apart(trained.network.state_dict()), metadata={_KEY: json.dumps(description, sort_keys=True)})
    return data


def refuse_unkept_state(network: nn.Module, name: str) -> None:
    """Before training: what `to_bytes` could not write, or `from_bytes` not put back."""
    for key, value in network.state_dict().items():
        if problem := _unkept(value):
            raise ConfigError(
                f"[model] {name}: its state_dict holds '{key}', {problem}, which no checkpoint can keep",
                hint="keep it as a buffer of its own (register_buffer), or leave it out of the state_dict "
                "(persistent=False, no get_extra_state)",
            )


def _unkept(value: Any) -> str:
    """Why not; empty for what can be kept."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    if value.is_meta or value.is_quantized or value.is_complex() or value.layout != torch.strided:
        return "a tensor without values" if value.is_meta else f"a {value.dtype} tensor ({value.layout})"
    spread = any(stride == 0 and side > 1 for stride, side in zip(value.stride(), value.shape, strict=True))
    return "a tensor whose elements share memory (expand)" if spread else ""


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors in memory of their own: layers used under two names are written twice, which loading puts back as one."""
    owners = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    return {
        name: tensor.clone(memory_format=torch.contiguous_format)
        if owners[tensor.untyped_storage().data_ptr()] > 1
        else tensor.contiguous()
        for name, tensor in state.items()
    }


def from_bytes(data: bytes) -> Trained:
    """Build the network that the bytes describe and load its weights."""
    description = _description(data)
    contract = read_any(json.dumps(description.contract), FILE_NAME)
    network = build_for(description.model, contract)
    state = load(data)
    if description.pruned:
        reshaped_to(network, state)
    network.load_state_dict(state)
    network.eval()
    return Trained(network, contract, description.palette, description.pruned)


def is_pruned(path: Path) -> bool:
    """Whether a file of weights is a checkpoint of ours whose network was pruned."""
    if path.suffix != Path(FILE_NAME).suffix:
        return False
    with path.open("rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), _MOST_HEADER_BYTES))
    try:
        return _description(start).pruned
    except ContractError:
        return False


class _Header(BaseModel):
    """What safetensors puts before the weights, as far as it is ours."""

    metadata: dict[str, str] = Field(default={}, alias="__metadata__")


class _Description(BaseModel):
    """What makes the weights a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: dict[str, Any]
    model: ModelConfig
    palette: Colours
    pruned: bool = False


_HEADER = Form("safetensors header", TypeAdapter(_Header), ContractError)
_FORM = Form("description of a network", TypeAdapter(_Description), ContractError)


def _description(data: bytes) -> _Description:
    length = int.from_bytes(data[:8], "little")
    again = "train it with segpipe"
    metadata = _HEADER.read(data[8 : 8 + length], FILE_NAME, again).metadata
    if _KEY not in metadata:
        raise ContractError(f"{FILE_NAME} does not describe its network", hint=again)
    return _FORM.read(metadata[_KEY], FILE_NAME, again)
