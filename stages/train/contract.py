"""The contract that the config, the data and the network make together."""

from torch import nn

from segpipe.contract import Contract
from segpipe.errors import ConfigError
from stages.config import Config
from stages.data import Labels


def contract_of(config: Config, labels: Labels, network: nn.Module) -> Contract:
    """Everything that export, validation and the runtime must agree on with training."""
    frames = config.input
    size = (frames.height, frames.width) if frames.height and frames.width else None
    multiple, stride = int(getattr(network, "size_multiple", 1)), int(getattr(network, "stride", 1))
    if size and (size[0] % multiple or size[1] % multiple):
        fitting = " x ".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
        raise ConfigError(
            f"[input] {size[0]} x {size[1]}: {config.model.name} takes multiples of {multiple}", hint=f"use {fitting}"
        )
    return Contract(
        channels=frames.channels,
        channel_order=frames.channel_order,
        dtype=frames.dtype,
        value_range=frames.value_range,
        mean=frames.mean,
        std=frames.std,
        fit=frames.fit,
        network_size=size,
        size_multiple=multiple,
        classes=labels.classes,
        ignore_index=labels.ignore_index,
        output_stride=stride,
        output_kind="sigmoid" if config.train.output == "sigmoid" else "logits",
        threshold=config.train.threshold if config.train.output == "sigmoid" else 0.5,
    )


def score_channels(config: Config, labels: Labels) -> int:
    """Channels of the network's output."""
    if config.train.output == "softmax":
        return len(labels.classes)
    if len(labels.classes) != 2:
        raise ConfigError(
            f"train.output = 'sigmoid' needs 2 classes, the data has {len(labels.classes)}", hint="use 'softmax'"
        )
    return 1


def refuse_crops_off_the_multiple(config: Config, contract: Contract) -> None:
    """A crop that the network cannot halve often enough fails before the first step, not in it."""
    train, multiple = config.train, contract.size_multiple
    crops = {
        "train.crop_height and crop_width": (train.crop_height, train.crop_width),
        "train.late_crop": train.late_crop,
    }
    for name, crop in crops.items():
        if crop and any(side is not None and side % multiple for side in crop):
            raise ConfigError(
                f"{name}: {crop[0]} x {crop[1]}, {config.model.name} takes multiples of {multiple}",
                hint=f"use multiples of {multiple}",
            )
