"""Loads pretrained weights, a file's or a library's, into a network, and reports what matched."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.errors import ConfigError, InputError
from stages.config.root import ModelConfig
from stages.models import weights_file
from stages.models.library import Library
from stages.models.matching import Match, Target, match
from stages.models.parts import encoder_parts, head_parts
from stages.models.weights_files import read_weights, refuse_no_weights

_log = logging.getLogger(__name__)

_SETTING = "[model] weights"
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
    state = read_weights(path, _SETTING).tensors if path else _published(network, config, channels)
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
        refuse_no_weights(state[original], own[key], f"{_SETTING}: '{original}' of {source}")
    chosen = {key: _fitted(state[original], own[key].shape) for key, original in found.taken.items()}
    network.load_state_dict(chosen, strict=False)
    return _report(source, found, target)


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
