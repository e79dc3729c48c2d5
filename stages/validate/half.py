"""The half-precision form of a network, with chosen modules kept in FP32. Float32 in, float32 out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segpipe.errors import ConfigError


def to_half(network: nn.Module, islands: Sequence[str]) -> nn.Module:
    """Turn `network` itself to FP16, except the modules named in `islands`, and return it. Keys stay as they are."""
    original = {name: module.state_dict() for name, module in _islands(network, islands).items()}
    original = {name: {key: value.clone() for key, value in state.items()} for name, state in original.items()}
    network.half()
    for name, island in _islands(network, islands).items():
        island.float()
        island.load_state_dict(original[name])  # half and back would have rounded them
        island.register_forward_pre_hook(_casting_inputs(torch.float32), with_kwargs=True)
        island.register_forward_hook(_casting_output(torch.float16))
    network.register_forward_pre_hook(_casting_inputs(torch.float16), with_kwargs=True)
    network.register_forward_hook(_casting_output(torch.float32))
    return network


def _islands(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """Modules by name; one inside another island belongs to that one, and hands on FP32 there."""
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules or not name:
            raise ConfigError(
                f"export.fp32_islands: the network has no module '{name}'",
                hint=f"name modules here: {', '.join(key for key in modules if key and '.' not in key)}",
            )
    return {name: modules[name] for name in names if not name.startswith(tuple(f"{other}." for other in names))}


def _casting_inputs(dtype: torch.dtype) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        return _cast(args, dtype), _cast(kwargs, dtype)

    return hook


def _casting_output(dtype: torch.dtype) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _cast(output, dtype)

    return hook


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors in any nesting of tuples, lists and dicts, to `dtype`."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(item, dtype) for item in value)
    if isinstance(value, dict):
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value
