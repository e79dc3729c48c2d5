"""Parameters and arithmetic of a network, counted without running it."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from stages.config.root import ModelConfig
from stages.models import build_network
from stages.models.catalogue import SIZE, Line, NetworkFigures
from stages.models.registry import Known, find_known

_CHANNELS, _OUTPUTS = 3, 19


def measured(names: Iterable[str]) -> list[Line]:
    """Any networks by name, listed or not, measured now."""
    return [Line(find_known(name) or Known(name, ""), measure(ModelConfig(name=name))) for name in names]


def measure(config: ModelConfig) -> NetworkFigures:
    """With 3 channels and 19 classes. A multiply and an add count as two operations."""
    network: Any = build_network(config, _CHANNELS, _OUTPUTS).eval()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    stride, multiple = int(getattr(network, "stride", 1)), int(getattr(network, "size_multiple", 1))
    size = [-(-side // multiple) * multiple for side in config.options.get("img_size", SIZE)]
    network = network.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, _CHANNELS, *size, device="meta"))
    gflops = round(counter.get_total_flops() / 1e9, 2)
    return NetworkFigures(stride, multiple, parameters, gflops, (size[0], size[1]))
