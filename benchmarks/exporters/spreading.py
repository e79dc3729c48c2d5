"""Random PyTorch weights whose masks hold every class: batch statistics of real frames, scores spread evenly."""

from typing import Any

import torch
from torch import nn


def spread(network: nn.Module, last: nn.Module, images: torch.Tensor) -> None:
    """Each channel of `last`, a convolution, gets mean 0 and deviation 1 over `images`. Ends in evaluation mode."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain mean over what follows
    with torch.no_grad():
        network(images)
        network.eval()
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        found: list[torch.Tensor] = []
        hook = last.register_forward_hook(lambda *call: found.append(call[-1]))
        network(images)
        hook.remove()
        layer: Any = last
        mean, deviation = found[0].mean((0, 2, 3)), found[0].std((0, 2, 3))
        layer.weight /= deviation[:, None, None, None]
        layer.bias.copy_((layer.bias - mean) / deviation)
