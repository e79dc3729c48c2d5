"""Which parameters are the encoder's, which the decoder's, which the last layer's: for fine-tuning and for loading.

A network says so by two class attributes, tuples of module names: `encoder_parts` (what pretrained weights fill) and
`head_parts` (the layers whose shape depends on the number of classes). A network without them is all decoder.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from segpipe.errors import ConfigError


@dataclass(frozen=True)
class ParameterGroups:
    """Every parameter of a network, in one of two groups."""

    encoder: list[nn.Parameter]
    decoder: list[nn.Parameter]


def parameter_groups(network: nn.Module) -> ParameterGroups:
    """Split the parameters, so that each group can have its own learning rate."""
    groups = ParameterGroups([], [])
    parts = encoder_parts(network)
    for name, parameter in network.named_parameters():
        (groups.encoder if is_within(name, parts) else groups.decoder).append(parameter)
    return groups


def freeze_encoder(network: nn.Module) -> None:
    """Stop the encoder's learning and its batch statistics; call it again after each `network.train()`."""
    parts = encoder_parts(network)
    if not parts:
        raise ConfigError(
            f"{type(network).__name__} does not say what its encoder is, so nothing can be frozen",
            hint="give the class an attribute `encoder_parts` with the names of its modules",
        )
    for name in parts:
        network.get_submodule(name).eval().requires_grad_(False)


def encoder_parts(network: nn.Module) -> tuple[str, ...]:
    """Names of the modules that make up the encoder; a network that says nothing may call a module `encoder`."""
    named = ("encoder",) if isinstance(getattr(network, "encoder", None), nn.Module) else ()
    return tuple(getattr(network, "encoder_parts", named))


def head_parts(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers that depend on the number of classes."""
    return tuple(getattr(network, "head_parts", ()))


def is_within(name: str, parts: Iterable[str]) -> bool:
    """Whether a parameter belongs to one of these modules."""
    return any(name.startswith(f"{part}.") for part in parts)
