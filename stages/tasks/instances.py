"""Instance segmentation, offline: targets, loss, the definition in PyTorch, average precision as the headline."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segpipe.contract.schema import InstanceContract, Placement
from segpipe.errors import ConfigError
from segpipe.id_maps import classes_in
from segpipe.instance_metrics import InstanceFigures, InstanceMeter
from segpipe.instances import Instances
from segpipe.runtime.request import Outputs
from segpipe.tasks.instances import InstanceTask
from stages.config.losses import Loss, ThingWeights
from stages.models import reference
from stages.tasks.instance_losses import InstanceLoss
from stages.tasks.losses import Averaging

_WEIGHTS = ThingWeights()


class ThingsMeter(nn.Module):
    """What was found beside what is true, by all processes."""

    def __init__(self, contract: InstanceContract) -> None:
        super().__init__()
        self._contract = contract
        self._meter = InstanceMeter(contract)

    def add(self, answer: Instances, labels: NDArray[Any]) -> None:
        """Count one frame."""
        self._meter.add(labels, answer)

    def harvest(self) -> InstanceFigures:
        """Of all frames since the last call; every process counts the same list."""
        whole = InstanceMeter(self._contract)
        for own in _of_all(self._meter.seen):
            whole.seen += own
        self.reset()
        return whole.figures()

    def reset(self) -> None:
        """Forget what was counted."""
        self._meter = InstanceMeter(self._contract)


class OfflineInstances:
    """Things by a contract."""

    headline = "val_ap"
    gives_labels = False
    fp32_modules: Mapping[str, str] = {
        "decode": "picks rows: FP16 knows no odd pixel above 2048, and rounding makes peaks tie"
    }

    def __init__(self, contract: InstanceContract) -> None:
        self._contract = contract
        self._light = InstanceTask(contract)

    def targets(self, labels: NDArray[Any]) -> Tensor:
        """The id map, HxW."""
        return torch.from_numpy(labels.astype(np.int64))

    def loss(
        self,
        terms: Sequence[Loss],
        class_weights: Sequence[float] | None,
        averaging: Averaging,
        things: ThingWeights = _WEIGHTS,
    ) -> InstanceLoss:
        """Centres, boxes and masks, and the terms for the class of every pixel."""
        if class_weights is not None:
            raise ConfigError("train.class_weights is for the task 'semantic'", hint="leave it out")
        return InstanceLoss(self._contract, terms, averaging, things)

    def at_targets(self, output: Any, targets: Tensor) -> Any:
        """As it is: things are compared on the output's cells."""
        return output

    def decide(self, output: Sequence[Tensor], placement: Placement) -> Instances:
        """The outputs for one frame, with a batch of one, to its things; pasted as the runtime pastes."""
        named = zip(self._contract.output_names, output, strict=True)
        tensors = {name: tensor[0].detach().cpu().numpy() for name, tensor in named}
        return self._light.decode(tensors, placement, Outputs(scores=True))

    @torch.inference_mode()
    def segment(self, network: nn.Module, frame: NDArray[Any]) -> Instances:
        """Frame to things by the definition."""
        placement = self._contract.place(*frame.shape[:2])
        device = next(network.parameters()).device
        tensor = reference.preprocess(frame, self._contract, placement, device)
        return self.decide(network(tensor), placement)

    def meter(self) -> ThingsMeter:
        """Average precision."""
        return ThingsMeter(self._contract)

    def headline_of(self, counted: InstanceFigures) -> float:
        """Average precision of masks, of boxes where the network gives no masks; 0 where there was nothing to find."""
        value = (counted.masks or counted.boxes)["ap"]
        return 0.0 if math.isnan(value) else value

    def kept(self, counted: InstanceFigures) -> dict[str, Any]:
        """Every figure."""
        return counted.as_dict()

    def told(self, counted: InstanceFigures) -> str:
        """Average precision and panoptic quality."""
        return counted.mean()

    def curves(self, counted: InstanceFigures) -> dict[str, float]:
        """Every figure that something was measured for."""
        named = {f"val_{group}/{name}": value for group, of in counted.groups().items() for name, value in of.items()}
        return {name: value for name, value in named.items() if not math.isnan(value)}

    def class_numbers(self, targets: Tensor) -> NDArray[Any]:
        """The classes of an id map."""
        return classes_in(targets.numpy())


def _of_all(own: list[Any]) -> list[list[Any]]:
    """A list of each process, in their order."""
    if not torch.distributed.is_initialized():
        return [own]
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered
