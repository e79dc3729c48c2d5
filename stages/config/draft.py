"""The contract as far as the config alone says it: the network adds its stride and multiple. Light: no torch."""

from typing import Any

from segpipe.contract.schema import AnyContract, InstanceContract, SemanticContract
from stages.config.root import Config, FolderData, InstancesConfig, ShapesData


def draft_contract(config: Config) -> AnyContract:
    """Raises pydantic's ValidationError where [input], [data], [task] and [train] contradict each other."""
    classes, ignore_index, things = _classes(config)
    if isinstance(config.task, InstancesConfig):
        task = config.task
        return InstanceContract(
            **_of_frames(config),
            classes=classes,
            things=task.things or things,
            masks=task.masks,
            top=task.top,
            threshold=task.threshold,
        )
    train = config.train
    return SemanticContract(
        **_of_frames(config),
        classes=classes,
        ignore_index=ignore_index,
        unscored=() if isinstance(config.data, ShapesData) else config.data.unscored,
        output_kind="sigmoid" if train.output == "sigmoid" else "logits",
        threshold=train.threshold if train.output == "sigmoid" else 0.5,
    )


def _of_frames(config: Config) -> dict[str, Any]:
    """What every task is told of [input]."""
    frames = config.input
    return {
        "channels": frames.channels,
        "channel_order": frames.channel_order,
        "dtype": frames.dtype,
        "value_range": frames.value_range,
        "mean": frames.mean,
        "std": frames.std,
        "fit": frames.fit,
        "network_size": (frames.height, frames.width) if frames.height and frames.width else None,
    }


def _classes(config: Config) -> tuple[tuple[str, ...], int, tuple[str, ...]]:
    """Names, the ignore index, and which of them are things where nobody says it."""
    if isinstance(config.data, FolderData):
        return config.data.classes, config.data.ignore_index, config.data.classes[1:]
    from stages.data import labels_of  # OpenCV loads here, for the synthetic set

    labels = labels_of(config)
    return labels.classes, labels.ignore_index, labels.things or labels.classes[1:]
