"""What each channel of a trained network matters: how far the loss moves, to first order, when it is turned down.

That is the sum, over the weights that read the channel, of weight times gradient (Molchanov et al., 2019).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.config.root import Config
from stages.console_bars import counted
from stages.data import open_split
from stages.data.check import class_weights
from stages.data.choosing import spread
from stages.models.checkpoint import Trained
from stages.tasks import offline_task_of
from stages.train.dataset import TrainingSet

_FRAMES = 64
"""More of them change the order little: it is of many channels, and the best of their neighbours are alike."""

Matters = Mapping[str, Tensor]
"""By layer, a number for each channel that it reads: the mean over frames of the square."""


def what_matters(trained: Trained, config: Config, base: Path) -> Matters:
    """On train frames as training has them. The network is left without gradients, in evaluation."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = trained.network.eval().requires_grad_(True).to(device)
    task = offline_task_of(trained.contract)
    loss = task.loss(config.train.loss, class_weights(config, base), lambda value: value).to(device)
    split = open_split(config, base, "train")
    frames = TrainingSet(split, trained.contract, config.train)
    found = {name: torch.zeros(_read_by(layer)) for name, layer in readers(network).items()}
    indices = spread(range(len(split)), _FRAMES)
    for index in counted("weighing channels", indices, len(indices)):
        image, target, _ = frames[0, index]
        network.zero_grad(set_to_none=True)
        targets = _one(target, device)
        loss(task.at_targets(network(image[None].to(device)), targets), targets).backward()
        for name, layer in readers(network).items():
            found[name] += _moved(layer).square().cpu() / len(indices)
    network.zero_grad(set_to_none=True)
    network.cpu()
    return found


def readers(network: nn.Module) -> dict[str, Any]:
    """Layers whose weights tell of each channel that they read: depthwise ones hand it on to those behind them."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, kinds) and getattr(layer, "groups", 1) == 1
    }


def by_channel_read(layer: Any, values: Tensor) -> Tensor:
    """Numbers of a layer's weights, summed for each channel that it reads."""
    axis = 0 if isinstance(layer, nn.ConvTranspose2d) else 1
    return values.transpose(0, axis).flatten(1).sum(1)


def _moved(layer: Any) -> Tensor:
    weight: Tensor = layer.weight
    if weight.grad is None:  # nothing that the loss sees comes through it
        return torch.zeros(_read_by(layer))
    return torch.nan_to_num(by_channel_read(layer, (weight * weight.grad).detach()))


def _read_by(layer: Any) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)


def _one(target: Any, device: str) -> Any:
    """A batch of it."""
    return target[None].to(device)
