"""segmentation_models.pytorch: every decoder on every encoder, without the upsampling at its end."""

import difflib
import inspect
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn
from torch.nn import functional as F

from segpipe.errors import ConfigError
from stages.models.layers import ExportableAdaptivePool
from stages.models.library import Library

_OURS = {
    "encoder_name": "name the encoder in [model] name",
    "encoder_weights": "use [model] weights",
    "in_channels": "use [input] channels",
    "activation": "networks emit scores",
    "aux_params": "segpipe has no use for a classification head",
}
_DEFAULTS: dict[str, dict[str, Any]] = {"dpt": {"dynamic_img_size": True}}


def build_smp(decoder: str, encoder: str, channels: int, classes: int, **options: Any) -> nn.Module:
    """A network with random weights; `options` are the decoder class's own (and, for `tu-` encoders, timm's)."""
    kind = smp.MODEL_ARCHITECTURES_MAPPING[decoder]
    _check_encoder(encoder)
    _check_options(decoder, encoder, kind, options)
    settings = options if "img_size" in options else {**_DEFAULTS.get(decoder, {}), **options}
    network = _construct(decoder, encoder, settings, encoder_weights=None, in_channels=channels, classes=classes)
    _make_exportable(network)
    network.stride = _remove_upsampling(network)
    network.size_multiple = _size_multiple(network)
    network.encoder_parts, network.head_parts = ("encoder",), ("segmentation_head",)
    network.encoder_is_cut = settings.get("encoder_depth", _default_depth(kind)) < 5
    network.library = Library("smp", f"{decoder}/{encoder}", settings)
    return network


def pretrained_encoder(library: Library, channels: int, weights: str) -> dict[str, Tensor]:
    """The encoder's weights under the network's keys, downloaded by the library and fitted to `channels` by it."""
    decoder, _, encoder = library.name.partition("/")
    available = _available_weights(encoder)
    if weights not in available:
        raise ConfigError(
            f"[model] weights: '{weights}' is not published for the encoder {encoder}",
            hint=f"use {', '.join(available) or 'a file'}",
        )
    wanted: Any = True if encoder.startswith("tu-") else weights  # timm's models carry the set in their name
    network = _construct(decoder, encoder, library.options, encoder_weights=wanted, in_channels=channels)
    return {f"encoder.{key}": value for key, value in network.encoder.state_dict().items()}


def _construct(decoder: str, encoder: str, options: dict[str, Any], **ours: Any) -> Any:
    try:
        return smp.MODEL_ARCHITECTURES_MAPPING[decoder](encoder_name=encoder, **ours, **options)
    except (KeyError, ValueError, RuntimeError) as error:  # what smp and timm raise for options that do not go together
        raise ConfigError(
            f"[model] smp/{decoder}/{encoder} cannot be built: {error}", hint="try other options or another encoder"
        ) from error


def _check_encoder(encoder: str) -> None:
    """Every encoder of smp, and with `tu-` every model of timm (a pretrained tag after a dot is timm's business)."""
    plain = encoder.partition(".")[0]
    known = [*smp.encoders.encoders, *(f"tu-{name}" for name in timm.list_models())]
    if plain not in known:
        near = difflib.get_close_matches(plain, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see segmentation_models_pytorch.encoders"
        raise ConfigError(f"[model] there is no encoder '{encoder}'", hint=hint)


def _check_options(decoder: str, encoder: str, kind: Any, options: dict[str, Any]) -> None:
    """Refuse what segpipe decides, and what the library would ignore without a word."""
    for name in options:
        if name in _OURS:
            raise ConfigError(f"[model] options.{name} is not yours to set", hint=_OURS[name])
    known = [name for name in inspect.signature(kind.__init__).parameters if name not in {"self", "kwargs", *_OURS}]
    unknown = [name for name in options if name not in known]
    if unknown and not encoder.startswith("tu-"):
        raise ConfigError(
            f"[model] smp/{decoder} has no option {', '.join(unknown)}", hint=f"it takes {', '.join(known)}"
        )


def _remove_upsampling(network: Any) -> int:
    """Take the last upsampling out and return its factor, which is the stride that scores now have."""
    head = network.segmentation_head
    if isinstance(head, nn.Sequential):
        upsampling = head[1]
        head[1] = nn.Identity()
        return int(getattr(upsampling, "scale_factor", 1))
    factor = int(head.upsampling_factor)  # DPT upsamples by 2 twice: in its decoder's last block and here
    network.segmentation_head = _PlainHead(head.head)
    return factor


def _make_exportable(network: Any) -> None:
    """Pools to more than one cell become matrix products; keys of the weights stay."""
    for module in list(network.decoder.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "PSPBlock":
                setattr(module, name, _PyramidBlock(child.pool))
    for module in list(network.decoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and (bins := _bins(child)) > 1:
                setattr(module, name, ExportableAdaptivePool(bins))


def _bins(pool: nn.AdaptiveAvgPool2d) -> int:
    size = pool.output_size
    return int(size[0] if isinstance(size, tuple) else size)  # type: ignore[arg-type]  # never None here


def _size_multiple(network: Any) -> int:
    """The deepest stride; a network that divides further does so with rounding of its own."""
    strides = getattr(network.encoder, "output_strides", None)
    return int(max(strides)) if strides else int(network.encoder.output_stride)


def _default_depth(kind: Any) -> int:
    return int(inspect.signature(kind.__init__).parameters["encoder_depth"].default)


def _available_weights(encoder: str) -> list[str]:
    if encoder.startswith("tu-"):
        return ["imagenet"] if timm.models.is_model_pretrained(encoder.removeprefix("tu-")) else []
    return list(smp.encoders.encoders[encoder]["pretrained_settings"])


class _PlainHead(nn.Module):
    """DPT's head without its upsampling."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.head(features)
        return scores


class _PyramidBlock(nn.Module):
    """PSPNet's block with one way of pooling: the library's own takes another one while it is exported."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, features: Tensor) -> Tensor:
        return F.interpolate(self.pool(features), features.shape[2:], mode="bilinear", align_corners=True)
