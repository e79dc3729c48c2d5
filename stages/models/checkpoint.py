"""model.safetensors: a trained network that describes itself. Written by train, read by every later stage."""

import json
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors.torch import load, save
from torch import nn

from segpipe.contract.schema import Contract
from segpipe.documents import Form
from segpipe.errors import ContractError
from segpipe.palette import Colours
from stages.config.root import ModelConfig
from stages.models import build_network

FILE_NAME = "model.safetensors"
_KEY = "segpipe"  # one key: safetensors does not keep the order of several, and files must be reproducible


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, with what it needs to be used."""

    network: nn.Module
    contract: Contract
    palette: Colours


def to_bytes(trained: Trained, model: ModelConfig) -> bytes:
    """Weights and description as one file's bytes; equal weights give equal bytes."""
    description = {
        "contract": trained.contract.model_dump(mode="json"),
        "model": model.model_dump(mode="json", exclude={"weights"}),  # where training started from is in its record
        "palette": trained.palette,
    }
    tensors = {name: tensor.contiguous() for name, tensor in trained.network.state_dict().items()}
    data: bytes = save(tensors, metadata={_KEY: json.dumps(description, sort_keys=True)})
    return data


def from_bytes(data: bytes) -> Trained:
    """Build the network that the bytes describe and load its weights."""
    description = _description(data)
    contract = Contract.from_json(json.dumps(description.contract), FILE_NAME)
    network = build_network(description.model, contract.channels, contract.score_channels)
    network.load_state_dict(load(data))
    network.eval()
    return Trained(network, contract, description.palette)


class _Header(BaseModel):
    """What safetensors puts before the weights, as far as it is ours."""

    metadata: dict[str, str] = Field(default={}, alias="__metadata__")


class _Description(BaseModel):
    """What makes the weights a network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: dict[str, Any]
    model: ModelConfig
    palette: Colours


_HEADER = Form("safetensors header", TypeAdapter(_Header), ContractError)
_FORM = Form("description of a network", TypeAdapter(_Description), ContractError)


def _description(data: bytes) -> _Description:
    length = int.from_bytes(data[:8], "little")
    again = "train it with segpipe"
    metadata = _HEADER.read(data[8 : 8 + length], FILE_NAME, again).metadata
    if _KEY not in metadata:
        raise ContractError(f"{FILE_NAME} does not describe its network", hint=again)
    return _FORM.read(metadata[_KEY], FILE_NAME, again)
