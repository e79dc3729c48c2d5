"""The contract that the config, the data and the network make together."""

from typing import Any

import torch
from torch import Tensor, nn

from segpipe.contract.schema import AnyContract, InstanceContract
from segpipe.errors import ConfigError
from stages.config.draft import draft_contract
from stages.config.root import Config
from stages.data import Labels
from stages.train.augment import crop_size


def contract_of(config: Config, network: nn.Module) -> AnyContract:
    """Everything that export, validation and the runtime must agree on with training."""
    frames = config.input
    size = (frames.height, frames.width) if frames.height and frames.width else None
    multiple, stride = _promised(network, "size_multiple"), _promised(network, "stride")
    if size and (size[0] % multiple or size[1] % multiple):
        fitting = " x ".join(str(max(multiple, round(side / multiple) * multiple)) for side in size)
        raise ConfigError(
            f"[input] {size[0]} x {size[1]}: {config.model.name} takes multiples of {multiple}", hint=f"use {fitting}"
        )
    if size is None and (why := getattr(network, "one_size", "")):
        raise ConfigError(f"[model] {config.model.name} is for one size: {why}", hint="set [input] height and width")
    draft = draft_contract(config)
    promised: dict[str, Any] = {"size_multiple": multiple, "output_stride": stride}
    if isinstance(draft, InstanceContract):
        promised |= {name: getattr(network, name) for name in _OF_THINGS if hasattr(network, name)}
    return type(draft).model_validate(draft.model_dump() | promised)


_OF_THINGS = ("semantic_name", "dense_names", "masks", "settled_name")
"""What a network for things says of itself beside stride and multiple."""


def score_channels(config: Config, labels: Labels) -> int:
    """Channels of the network's output."""
    return len(labels.classes) if config.train.output == "softmax" else 1


def refuse_crops_off_the_multiple(config: Config, contract: AnyContract) -> None:
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


def refuse_broken_promises(network: nn.Module, config: Config, contract: AnyContract) -> None:
    """One frame of zeros: what the network gives must be what the contract says of it."""
    if not config.model.trained and (elsewhere := getattr(network, "trained_elsewhere", "")):
        raise ConfigError(f"[model] {config.model.name} is not trained here", hint=elsewhere)
    size = crop_size(config.train, contract, 0) if not config.model.trained else _example_size(contract)
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    frame = torch.zeros(1, contract.channels, *size)
    with torch.inference_mode():
        answer = _answer(network, frame, config, contract)
    for module, mode in modes:
        module.training = mode
    name = config.model.name
    if isinstance(contract, InstanceContract):
        return _refuse_other_outputs(name, answer, contract, size)
    if not isinstance(answer, Tensor) or answer.ndim != 4:
        raise ConfigError(
            f"[model] {name} gives a {type(answer).__name__} in eval mode",
            hint="return one tensor of scores, batch x channels x height x width, unless self.training",
        )
    if answer.shape[1] != contract.score_channels:
        raise ConfigError(
            f"[model] {name} gives {answer.shape[1]} channels of scores, wanted {contract.score_channels}",
            hint="make as many as the factory's argument `classes` says",
        )
    stride = contract.output_stride
    if any(abs(side - given * stride) >= stride for side, given in zip(size, answer.shape[2:], strict=True)):
        said = f"its `stride` is {stride}" if hasattr(network, "stride") else "it has no `stride`, which means 1"
        height, width = answer.shape[2:]
        raise ConfigError(
            f"[model] {name} gives {height} x {width} scores for {size[0]} x {size[1]} pixels, but {said}",
            hint=f"set the network's attribute `stride`, here {max(1, round(size[0] / height))}",
        )
    return None


def _refuse_other_outputs(name: str, answer: Any, contract: InstanceContract, size: tuple[int, int]) -> None:
    """Of a network for things: as many tensors as the contract names, each with the sides that it says."""
    names = contract.output_names
    if not isinstance(answer, tuple) or len(answer) != len(names):
        given = f"{len(answer)} tensors" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
        raise ConfigError(
            f"[model] {name} gives {given} in eval mode, wanted {len(names)}: {', '.join(names)}",
            hint="return them as a tuple in this order; its attributes semantic_name, dense_names and masks say which",
        )
    cells = tuple(side // contract.output_stride for side in size)
    rows: dict[str, tuple[int, ...]] = {contract.boxes_name: (contract.top, 4)}
    rows |= dict.fromkeys((contract.scores_name, contract.labels_name), (contract.top,))
    if contract.semantic_name:
        rows[contract.semantic_name] = (len(contract.classes), *cells)
    if contract.masks == "canvas":
        rows[contract.masks_name] = (contract.top, *cells)
    for output, tensor in zip(names, answer, strict=True):
        sides = tuple(tensor.shape[1:])
        if sides != (wanted := rows.get(output, sides)):
            raise ConfigError(
                f"[model] {name} gives '{output}' of {sides} for a frame, wanted {wanted}",
                hint="mend the network, its attribute `stride`, or [task] top",
            )


def _example_size(contract: AnyContract) -> tuple[int, int]:
    """The network's size; with an open one, any that it should take."""
    return contract.network_size or (8 * contract.size_multiple, 16 * contract.size_multiple)


def _answer(network: nn.Module, frame: Tensor, config: Config, contract: AnyContract) -> object:
    """A network that was trained elsewhere may be one for other frames than [input] says; one for things may have
    fewer places than it is to pick."""
    if isinstance(contract, InstanceContract):
        return _answer_of_others(network, frame, config, "lower [task] top, or enlarge [input] or the crops")
    if not config.model.trained:
        return network(frame)
    wanted = "set [input] height, width and channels to what it was trained with"
    return _answer_of_others(network, frame, config, wanted)


def _answer_of_others(network: nn.Module, frame: Tensor, config: Config, hint: str) -> object:
    try:
        return network(frame)
    except Exception as error:  # whatever somebody else's code raises
        shape = "x".join(map(str, frame.shape))
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise ConfigError(
            f"[model] {config.model.name} takes no frame of {shape}: {type(error).__name__}: {reason}",
            hint=hint,
        ) from error


def _promised(network: nn.Module, name: str) -> int:
    """A number that the network carries; 1 where it says nothing."""
    value = getattr(network, name, 1)
    if not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"the attribute `{name}` of {type(network).__name__} is {value!r}, wanted a whole number of 1 or more",
            hint="set it on the network that the factory returns; wrap a bare layer in nn.Sequential",
        )
    return value
