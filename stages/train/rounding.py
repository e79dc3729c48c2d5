"""Rounding as INT8 will, inside a network that trains: hooks before its layers, parametrisations of their weights.

All of it is taken off again: what is exported is the plain network, and the ranges that it was trained with.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from segpipe.errors import ConfigError

Ranges = dict[str, tuple[float, float]]
"""The least and the greatest value of each layer's input, by the module's name."""

_INPUT_STEPS = 127
"""To either side, as engines have them; CPUs have the same number over what a ReLU leaves, and more."""
_WEIGHT_STEPS = 64
"""To either side, as CPUs have them: 7 bits, since AVX2 without VNNI adds two products in 16. Engines have 8."""
_FOLLOWED = 0.02
"""How far a range goes towards what each batch shows. The first batch sets it."""
_LEAST = 1e-12
_AXES: dict[type[nn.Module], int] = {nn.Conv2d: 0, nn.ConvTranspose2d: 1, nn.Linear: 0}
"""Where the output channels of the weights lie, of what INT8 multiplies."""
_INPUT = "input_rounding"


class _Weights(nn.Module):
    """Rounded by the largest weight of each output channel. A batch norm that is folded in later scales channels
    whole, so steps stay steps."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self._axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self._axis]
        scale = (weight.detach().abs().amax(others) / _WEIGHT_STEPS).clamp(min=_LEAST)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero, self._axis, -_WEIGHT_STEPS, _WEIGHT_STEPS)


class _Input(nn.Module):
    """Cut to a range that follows what training shows, and rounded."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        if self.training:
            self._follow(values.detach())
        elif not bool(self.seen):
            return values
        scale = (torch.maximum(self.low.abs(), self.high.abs()) / _INPUT_STEPS).clamp(min=_LEAST)
        zero = torch.zeros_like(scale, dtype=torch.int32)
        cut = torch.clamp(values, self.low, self.high)
        return torch.fake_quantize_per_tensor_affine(cut, scale, zero, -_INPUT_STEPS, _INPUT_STEPS)

    def _follow(self, values: Tensor) -> None:
        share = torch.where(self.seen > 0, _FOLLOWED, 1.0)
        self.low.lerp_(values.min().clamp(max=0), share)  # steps of 8 bits always include 0
        self.high.lerp_(values.max().clamp(min=0), share)
        self.seen.fill_(1)


def put_on(network: nn.Module) -> int:
    """Round in place what INT8 will round, and hold batch norms to their statistics; how many layers that are."""
    layers = [*_layers(network)]
    if not layers:
        raise ConfigError("no layer of this network multiplies by weights", hint='set compress.int8 = "off"')
    for name, layer, _ in layers:
        if layer._parameters.get("weight") is None:  # a norm of weights, or somebody's own parametrisation
            raise ConfigError(
                f"'{name}' makes its weights of other numbers, and is not trained for INT8",
                hint='set compress.int8 = "ptq"',
            )
    for _, layer, axis in layers:
        parametrize.register_parametrization(layer, "weight", _Weights(axis))
        layer.add_module(_INPUT, _Input())
        layer.register_forward_pre_hook(_rounded)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_held)
    return len(layers)


def taken_off(network: nn.Module) -> Ranges:
    """Make the network plain again, in place, with the weights as they were trained; the ranges of its layers."""
    ranges: Ranges = {}
    for name, layer, _ in [*_layers(network)]:
        rounding: Any = layer.get_submodule(_INPUT)
        if bool(rounding.seen):  # some layers lend their weights and are never called
            ranges[name] = (float(rounding.low), float(rounding.high))
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        delattr(layer, _INPUT)
    for module in network.modules():
        for key, hook in [*module._forward_pre_hooks.items()]:
            if hook in {_rounded, _held}:
                del module._forward_pre_hooks[key]
    return ranges


def _layers(network: nn.Module) -> Iterator[tuple[str, Any, int]]:
    for name, module in network.named_modules():
        for kind, axis in _AXES.items():
            if isinstance(module, kind) and not (isinstance(module, nn.ConvTranspose2d) and module.groups > 1):
                yield name, module, axis


def _rounded(layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return layer.get_submodule(_INPUT)(given[0]), *given[1:]


def _held(norm: nn.Module, _: object) -> None:
    """A few epochs of small batches would only disturb the statistics."""
    norm.eval()
