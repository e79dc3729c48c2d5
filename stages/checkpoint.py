"""model.safetensors: a trained network that describes itself. Written by train, read by every later stage."""

import json
from dataclasses import dataclass
from typing import Any

from safetensors.torch import load, save
from torch import nn

from segpipe.contract import Contract
from segpipe.errors import ContractError
from stages.config import ModelConfig
from stages.models import build_network

FILE_NAME = "model.safetensors"
_KEY = "segpipe"  # one key: safetensors does not keep the order of several, and files must be reproducible


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, with what it needs to be used."""

    network: nn.Module
    contract: Contract
    palette: tuple[tuple[int, int, int], ...]


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
    contract = Contract.from_json(json.dumps(description["contract"]), FILE_NAME)
    network = build_network(ModelConfig(**description["model"]), contract.channels, contract.score_channels)
    network.load_state_dict(load(data))
    network.eval()
    palette = tuple((int(r), int(g), int(b)) for r, g, b in description["palette"])
    return Trained(network, contract, palette)


def _description(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    if _KEY not in metadata:
        raise ContractError(f"{FILE_NAME} does not describe its network", hint="train it with segpipe")
    description: dict[str, Any] = json.loads(metadata[_KEY])
    return description
