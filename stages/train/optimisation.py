"""Optimisers, learning-rate schedules and averages of weights, by their names in the config. All are libraries'."""

from typing import Any

import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import get_ema_avg_fn

from segpipe.errors import ConfigError
from stages.config.root import TrainConfig
from stages.models.parts import parameter_groups

_ONE_CYCLE_RISE = 0.1  # of the steps, unless warmup_epochs says otherwise


def optimiser_of(network: nn.Module, config: TrainConfig, learning_rate: float) -> Optimizer:
    """With two groups where the network has an encoder that learns at a rate of its own."""
    groups = _groups(network, config.encoder_factor, learning_rate)
    match config.optimiser:
        case "sgd":
            return torch.optim.SGD(groups, lr=learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(groups, lr=learning_rate, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=config.weight_decay)


def schedule_of(optimiser: Optimizer, config: TrainConfig, steps: int) -> Any:
    """A schedule that takes one step after each of the optimiser's `steps`."""
    steps_an_epoch = max(1, steps // config.epochs)
    warmup = min(round(config.warmup_epochs * steps_an_epoch), steps - 1)
    if config.schedule == "one-cycle":
        highest = [float(group["lr"]) for group in optimiser.param_groups]
        rise = max(1, warmup or round(_ONE_CYCLE_RISE * steps))  # without any, OneCycleLR divides by zero
        return lr_scheduler.OneCycleLR(optimiser, highest, total_steps=steps + 1, pct_start=(rise + 1) / (steps + 1))
    main = _main_schedule(optimiser, config, steps - warmup, steps_an_epoch)
    if not warmup:
        return main
    rise_up = lr_scheduler.LinearLR(optimiser, start_factor=1 / (warmup + 1), total_iters=warmup)
    return lr_scheduler.SequentialLR(optimiser, [rise_up, main], milestones=[warmup])


def averaging_of(config: TrainConfig, steps: int) -> list[WeightAveraging]:
    """Lightning's callback for the average that is asked for, if any."""
    match config.average:
        case "ema":
            return [WeightAveraging(avg_fn=get_ema_avg_fn(config.ema_decay))]  # type: ignore[no-untyped-call]
        case "swa":
            return [WeightAveraging(avg_fn=_mean_after(round(steps * (1 - config.swa_share))))]
        case "none":
            return []


def _groups(network: nn.Module, factor: float, learning_rate: float) -> list[dict[str, Any]]:
    encoder = {id(parameter) for parameter in _encoder(network)} if factor != 1 else set()
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in learning if id(p) not in encoder]}]
    if slow := [p for p in learning if id(p) in encoder]:
        groups.append({"params": slow, "lr": learning_rate * factor})
    return groups


def _main_schedule(optimiser: Optimizer, config: TrainConfig, steps: int, steps_an_epoch: int) -> Any:
    match config.schedule:
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimiser, steps)
        case "poly":
            return lr_scheduler.PolynomialLR(optimiser, steps, config.power)
        case "step":
            return lr_scheduler.StepLR(optimiser, config.step_epochs * steps_an_epoch, config.decay)
        case "exponential":
            return lr_scheduler.ExponentialLR(optimiser, config.decay ** (1 / steps))
        case _:
            return lr_scheduler.ConstantLR(optimiser, factor=1.0)


def _mean_after(first: int) -> Any:
    """Follows the weights up to step `first`, then holds their mean. So validation always sees trained weights."""

    def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        count = int(updates) - first + 1
        return current if count <= 1 else averaged + (current - averaged) / count

    return average


def _encoder(network: nn.Module) -> list[nn.Parameter]:
    """The encoder's parameters, or an error: a rate of its own was asked for."""
    found = parameter_groups(network).encoder
    if not found:
        raise ConfigError(
            f"train.encoder_factor is set, but {type(network).__name__} does not say what its encoder is",
            hint="leave it out, or give the network's class `encoder_parts`, the names of its modules",
        )
    return found
