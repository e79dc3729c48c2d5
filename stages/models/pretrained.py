"""Loads pretrained weights, a file's or a library's, into a network, and reports what matched."""

import logging
import pickle
import re
import struct
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segpipe.errors import ConfigError, InputError
from stages.config.root import ModelConfig
from stages.models import weights_file
from stages.models.library import Library
from stages.models.matching import Match, Target, match
from stages.models.parts import encoder_parts, head_parts

_log = logging.getLogger(__name__)

_SAVE = "save a state_dict (torch.save(network.state_dict(), path) or safetensors)"
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, struct.error, EOFError, RuntimeError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, OverflowError, MemoryError,
)  # fmt: skip
"""What torch's reader of pickles raises on damaged ones, as 6,000 of them showed."""
_NESTED = ("state_dict", "model_state_dict", "model_state", "model", "weights", "params_ema", "params")
_DEEPEST = 4
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal, in PyTorch's messages
_TORCHVISION_BACKBONES = ("resnet50", "resnet101", "mobilenet_v3_large")


@dataclass(frozen=True)
class MatchReport:
    """What pretrained weights filled; goes into training's figures."""

    source: str
    matched: int
    total: int
    adapted: tuple[str, ...]
    """Convolutions over RGB that were fitted to another number of input channels."""
    random: tuple[str, ...]
    """Keys that kept their random weights."""
    unused: tuple[str, ...]
    """Keys of the source that the network has no place for."""

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def __str__(self) -> str:
        rest = f"; adapted to the input's channels: {', '.join(self.adapted)}" if self.adapted else ""
        modules = sorted({key.rpartition(".")[0] for key in self.random})
        left = f"; random: {_shortened(modules)}" if modules else ""
        extra = f"; unused: {_shortened(sorted(self.unused))}" if self.unused else ""
        return f"weights: {self.matched} of {self.total} tensors from {self.source}{rest}{left}{extra}"


def load_pretrained(network: nn.Module, config: ModelConfig, base: Path, channels: int) -> MatchReport | None:
    """Fill `network` in place as `[model] weights` says; None where it says nothing. Paths start at `base`."""
    if not config.weights:
        return None
    path = weights_file(config, base)
    state = read_weights(path) if path else _published(network, config, channels)
    report = fill(network, state, path.name if path else f"{config.weights} ({config.name})")
    _log.info("%s", report)
    return report


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> MatchReport:
    """Copy every tensor that fits; refuse the lot when anything but the classifier is left open."""
    own = network.state_dict()
    target = Target(
        {key: tuple(value.shape) for key, value in own.items()},
        encoder_parts(network),
        head_parts(network),
        bool(getattr(network, "encoder_is_cut", False)),
    )
    found = match({key: tuple(value.shape) for key, value in state.items()}, target, source)
    for key, original in found.taken.items():
        _refuse_no_weights(original, state[original], own[key], source)
    chosen = {key: _fitted(state[original], own[key].shape) for key, original in found.taken.items()}
    network.load_state_dict(chosen, strict=False)
    return _report(source, found, target)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a file. Pickles are opened with `weights_only`, so that they cannot run code."""
    try:
        as_tensors = path.suffix == ".safetensors" or _is_safetensors(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Validating sparse tensor")  # they are refused below
            content = load_file(path) if as_tensors else torch.load(path, "cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = _COLOURS.sub("", str(error)).partition("\n")[0]
        raise InputError(
            f"[model] weights: {path.name} cannot be read as weights: {reason}",
            hint=_SAVE,
        ) from error
    for _ in range(_DEEPEST):
        inner = (content[name] for name in _NESTED if isinstance(content, Mapping) and name in content)
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping):
        raise InputError(
            f"[model] weights: {path.name} holds a {type(content).__name__}, wanted names and tensors", hint=_SAVE
        )
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"[model] weights: {path.name} holds no tensors by name", hint=_SAVE)
    return tensors


def _is_safetensors(path: Path) -> bool:
    """By its first bytes: a length, and the JSON it is the length of."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _refuse_no_weights(key: str, found: Tensor, own: Tensor, source: str) -> None:
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
    raise InputError(f"[model] weights: '{key}' of {source} {problem}", hint=_SAVE.replace("save a", "save a trained"))


def adapt_stem(encoder: nn.Module, channels: int) -> None:
    """Give the first convolution another number of input channels, with new random weights."""
    name, stem = next((name, module) for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d))
    if stem.in_channels == channels:
        return
    size: Any = stem.kernel_size
    stride: Any = stem.stride
    padding: Any = stem.padding
    parent, _, attribute = name.rpartition(".")
    fresh = nn.Conv2d(channels, stem.out_channels, size, stride, padding, bias=stem.bias is not None)
    setattr(encoder.get_submodule(parent), attribute, fresh)


def _fitted(weight: Tensor, shape: torch.Size) -> Tensor:
    """RGB filters for another number of channels: repeated, and scaled so that activations keep their size."""
    if weight.shape == shape:
        return weight
    channels = shape[1]
    order = [index % 3 for index in range(channels)]
    return weight.mean(1, keepdim=True) * 3 if channels == 1 else weight[:, order] * (3 / channels)


def _published(network: nn.Module, config: ModelConfig, channels: int) -> Mapping[str, Tensor]:
    """Download through the library's own loader, which caches and checks what it gets."""
    library: Library | None = getattr(network, "library", None)
    try:
        if library is None:
            return _of_own(config)
        if library.kind == "torchvision":
            return _of_torchvision(library.name, config.weights)
        from stages.models.from_smp import pretrained_encoder

        return pretrained_encoder(library, channels, config.weights)
    except OSError as error:
        raise InputError(
            f"[model] weights: '{config.weights}' could not be downloaded: {str(error).rstrip('.')}",
            hint="check the connection, or name a file: weights = 'encoder.safetensors'",
        ) from error


def _of_own(config: ModelConfig) -> Mapping[str, Tensor]:
    if config.name == "segnet" and config.options.get("width", 64) == 64:
        return _chosen("vgg16_bn", config.weights)
    raise ConfigError(
        f"[model] weights: nobody publishes '{config.weights}' for {config.name}",
        hint="name a file that ends in .safetensors or .pth",
    )


def _of_torchvision(name: str, weights: str) -> Mapping[str, Tensor]:
    """`imagenet` or a member's name fills the backbone, `coco` (21 classes of VOC) the whole network."""
    if weights == "coco":
        return _chosen(name, "COCO_WITH_VOC_LABELS_V1")
    return _chosen(next(backbone for backbone in _TORCHVISION_BACKBONES if name.endswith(backbone)), weights)


def _chosen(model: str, weights: str) -> Mapping[str, Tensor]:
    import torchvision

    members = torchvision.models.get_model_weights(model).__members__
    name = "IMAGENET1K_V1" if weights == "imagenet" else weights
    if name not in members:
        raise ConfigError(
            f"[model] weights: torchvision has no '{weights}' for {model}",
            hint=f"use imagenet, {', '.join(members)} or a file that ends in .safetensors or .pth",
        )
    state: Mapping[str, Tensor] = members[name].get_state_dict(progress=False, check_hash=True)
    return state


def _report(source: str, found: Match, target: Target) -> MatchReport:
    return MatchReport(source, len(found.taken), len(target.shapes), found.stems, found.left, found.unused)


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
