"""A pruned network from its factory and the shapes of its tensors: no pickle, and no record of what was cut."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segpipe.errors import ContractError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_ALL_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
RESHAPED = (*_ALL_CONVOLUTIONS, *_NORMS, nn.Linear)
"""Kinds of layers whose channels may differ from what the factory made."""


def reshaped_to(network: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a freshly made network, in place, the channels that the tensors have. The tensors are not loaded yet."""
    for name, module in network.named_modules():
        weight = state.get(f"{name}.weight")
        if weight is None or not isinstance(module, RESHAPED) or weight.shape == _shape_of(module):
            continue
        if weight.ndim != len(_shape_of(module)):
            continue  # another network's: loading says so
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, _NORMS):
            module.num_features = len(weight)
        else:
            _reshape_convolution(module, weight, name)
        _renew(module, state, name)
    return network


def is_reshapeable(module: nn.Module) -> bool:
    """Whether its channels can be changed and found again by the shapes alone; convolutions in groups cannot."""
    if isinstance(module, _ALL_CONVOLUTIONS):
        return module.groups == 1 or _is_depthwise(module)
    return isinstance(module, RESHAPED)


def _is_depthwise(module: nn.Module) -> bool:
    """One filter a channel."""
    return isinstance(module, _CONVOLUTIONS) and module.groups == module.in_channels == module.out_channels


def _reshape_convolution(module: nn.Module, weight: Tensor, name: str) -> None:
    if not is_reshapeable(module):
        raise ContractError(f"'{name}' is a convolution in groups, which no pruning changes", hint="train it again")
    first, second = weight.shape[:2]
    if isinstance(module, nn.ConvTranspose2d):
        module.in_channels, module.out_channels = first, second
    elif isinstance(module, _CONVOLUTIONS):
        depthwise = _is_depthwise(module)
        module.out_channels, module.in_channels = first, first if depthwise else second
        module.groups = first if depthwise else 1


def _renew(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Its own tensors, empty, in the shapes of the state."""
    for key, parameter in [*module.named_parameters(recurse=False)]:
        shape = state.get(f"{name}.{key}", parameter).shape
        setattr(module, key, nn.Parameter(parameter.new_zeros(shape), requires_grad=parameter.requires_grad))
    for key, buffer in [*module.named_buffers(recurse=False)]:
        found = state.get(f"{name}.{key}")
        if found is not None and found.shape != buffer.shape:
            module.register_buffer(key, torch.zeros_like(found, dtype=buffer.dtype))


def _shape_of(module: nn.Module) -> torch.Size:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.shape
