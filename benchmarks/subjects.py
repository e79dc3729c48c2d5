"""Networks that export and build are measured on: weights at random, batch statistics from noise."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from segpipe.contract.schema import Contract
from stages.config.root import ModelConfig
from stages.models import build_network

CHANNELS = 3


@dataclass(frozen=True)
class Subject:
    """What to make, and the frames it is for."""

    model: str
    size: tuple[int, int] = (256, 512)
    classes: int = 19
    open_sizes: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> tuple[nn.Module, Contract]:
        """The network in evaluation mode, and what it promises.

        With the batch statistics of a fresh network activations would fade to nothing.
        """
        torch.manual_seed(0)
        network: Any = build_network(ModelConfig(name=self.model, options=self.options), CHANNELS, self.classes)
        update_bn([torch.randn(4, CHANNELS, 128, 256)], network)
        contract = Contract(
            classes=tuple(f"class {number}" for number in range(self.classes)),
            output_stride=network.stride,
            size_multiple=network.size_multiple,
            fit="pad" if self.open_sizes else "stretch",
            network_size=None if self.open_sizes else self.size,
        )
        return network.eval(), contract


_LRASPP = "torchvision/lraspp_mobilenet_v3_large"

SUBJECTS = {
    "LR-ASPP": Subject(_LRASPP),
    "LR-ASPP, open sizes": Subject(_LRASPP, open_sizes=True),
    "U-Net-R18": Subject("smp/unet/resnet18"),
    "SegFormer-B0": Subject("smp/segformer/mit_b0"),
    "DeepLabV3-R50": Subject("torchvision/deeplabv3_resnet50"),
    "DDRNet-23-slim": Subject("ddrnet23_slim"),
    "BiSeNetV2": Subject("bisenetv2"),
    "CamVid on a CPU": Subject("benchmarks.light_mobilenet:light_mobilenet", (384, 480), 11, options={"width": 96}),
    "CamVid on a GPU": Subject("skipnet", (384, 480), 11, options={"width": 32}),
}
